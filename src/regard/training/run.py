"""The run directory: everything one training leaves behind, and all that later commands need."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from regard import durable
from regard.errors import UserError
from regard.training import tensors

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """A run directory: `config.toml`, `metrics.jsonl`, `model.safetensors` + `model.json`, `checkpoints/`.

    Of several processes, only the first (RANK 0) ever writes.
    """

    path: Path
    config: Mapping[str, Any] = field(repr=False)

    @classmethod
    def create(cls, path: Path | str, config: Mapping[str, Any]) -> Run:
        """Make a new run directory and write `config` (tables of settings by part) into it first.

        Raises:
            UserError: The directory exists and is not empty, or cannot be written.
        """
        path = Path(path)
        run = cls(path, {"format": FORMAT, **config})
        if not first_process():
            return run
        cls.check_new(path)
        with durable.told(path):
            path.mkdir(parents=True, exist_ok=True)
        with run.locked():
            if (path / "config.toml").exists():
                raise UserError(f"{path} already exists: another process has just made it")
            try:
                durable.write_file(path / "config.toml", _toml(run.config))
            except UserError:
                shutil.rmtree(path, ignore_errors=True)
                raise
        return run

    @staticmethod
    def check_new(path: Path) -> None:
        """Raise `UserError` when there is something at `path` already; an empty folder is nothing."""
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} already exists and is not a folder; choose another folder")
        if path.is_dir() and any(path.iterdir()):
            raise UserError(
                f"{path} already exists: choose another folder, or use --resume to go on with that run"
            )

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """An existing run directory.

        Raises:
            UserError: It is not there, not a run directory, damaged, or of another format version.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: there is no such run directory")
        try:
            config = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path} is not a run directory: it has no config.toml") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path / 'config.toml'} is damaged: {error}") from None
        version = config.get("format")
        if not isinstance(version, int):
            raise UserError(f"{path} is not a run directory: its config.toml has no line 'format = {FORMAT}'")
        if version != FORMAT:
            raise UserError(
                f"{path} is written in run format {version}; this version of regard reads format {FORMAT}"
            )
        return cls(path, config)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The file of the records, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for training: no second process can, and the lock ends with the process.

        Raises:
            UserError: Another process is training into this run directory.
        """
        if not first_process():
            yield
            return
        with durable.told(self.path):
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.path} is in use: another process is training into it") from None
            durable.clean(self.path)
            if self.checkpoints.is_dir():
                durable.clean(self.checkpoints)
            yield
        finally:
            os.close(handle)

    def record(self, **values: Any) -> None:
        """Append one record to `metrics.jsonl`; numbers that are not finite are written as null."""
        durable.append_line(self.metrics, json.dumps(finite(values), ensure_ascii=False, allow_nan=False))

    def records(self) -> list[dict[str, Any]]:
        """The records of `metrics.jsonl`, without a last line cut short by a kill."""
        return [record for _, record in self._lines()]

    def rewind(self, step: int) -> None:
        """Cut `metrics.jsonl` back to what was known at `step`, so that going on writes no step twice."""
        size = 0
        for end, record in self._lines():
            if record["step"] > step or record["kind"] == "average":
                break
            size = end
        if self.metrics.exists():
            os.truncate(self.metrics, size)

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each whole record with the byte offset of its end."""
        if not self.metrics.exists():
            return
        end = 0
        content = self.metrics.read_bytes()
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            end += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                if end == len(content):  # a kill in the middle of a write
                    return
                raise UserError(f"{self.metrics}, line {number} is damaged: not a JSON object") from None
            if line.endswith(b"\n"):
                yield end, record

    def save_model(self, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Write `model.safetensors`, and `model.json` that says where the weights come from."""
        durable.write_file(self.path / "model.safetensors", tensors.pack(weights))
        content = json.dumps({"format": FORMAT, **description}, ensure_ascii=False, indent=2)
        durable.write_file(self.path / "model.json", content.encode())

    def load_model(self, model: nn.Module) -> dict[str, Any]:
        """Load the trained weights into `model`, and return what `model.json` says of them.

        Raises:
            UserError: No model was saved yet, or it is damaged, or it does not fit `model`.
        """
        if not (self.path / "model.safetensors").exists():
            raise UserError(f"{self.path} has no model yet: training ended before its first evaluation")
        fill(model, self.path / "model.safetensors")
        try:
            description: dict[str, Any] = json.loads((self.path / "model.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / 'model.json'} is damaged: {error}") from None
        return description


def fill(model: nn.Module, path: Path) -> None:
    """Load the weights of a safetensors file into `model`.

    Raises:
        UserError: The file is damaged, or its tensors are not those of `model`.
    """
    weights = tensors.unpack(path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit the model: {reason}") from None


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, with None for numbers that are not finite, which JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def first_process() -> bool:
    """Whether this is the only process, or the first of several (RANK 0), which alone writes to the disk."""
    return int(os.environ.get("RANK", "0")) == 0


def _toml(config: Mapping[str, Any]) -> bytes:
    import tomli_w

    return tomli_w.dumps(dict(config)).encode()
