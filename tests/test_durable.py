"""Files and folders appear whole or not at all, whenever the process ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regard import durable


def test_a_kill_between_two_renames_loses_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "step-1"
    durable.write_folder(place, {"weights": b"old"})
    replace, calls = os.replace, []

    def killed(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            os.sync()
            raise KeyboardInterrupt  # stands for the kill: what runs after it is undone below
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        durable.write_folder(place, {"weights": b"new"})
    monkeypatch.undo()
    assert (place / "weights").read_bytes() == b"old"  # an error puts it back at once
    os.replace(place, tmp_path / ".step-1.replaced")  # after a kill it stands aside
    durable.clean(tmp_path)
    assert (place / "weights").read_bytes() == b"old"
    assert not list(tmp_path.glob(".*"))
