"""`regard show`: where a trained model looked."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from regard.errors import UserError


def show(
    run: Path,
    text: str,
    *,
    answer: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    output: Path | None = None,
    width: int | None = None,
    device: str = "cpu",
) -> None:
    """Show where the model looked while it wrote its answer: in the terminal, and as PNG, SVG and HTML.

    Parameters
    ----------
    run
        The run directory.
    text
        The input.
    answer
        An answer to force on the model instead of its own.
    layer
        The decoder layer, from 1; the last when not given.
    head
        The head, from 1; the mean of all heads when not given.
    output
        A folder for the pictures; the run's own `pictures` when not given.
    width
        Columns of the terminal picture.
    device
        Where to compute.
    """
    from regard.tasks.experiment import Trained

    if width is not None and width < 20:
        raise UserError(f"--width must be at least 20 columns, it is {width}")
    trained = Trained.open(run, device)
    pictures = trained.task.pictures(trained.model, text, answer=answer, layer=layer, head=head)
    folder = run / "pictures" if output is None else output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} is in a file's place; --output takes a folder") from None
    for number, picture in enumerate(pictures):
        stem = file_stem(text) + (f"-{number + 1}" if number else "")
        if layer is not None:
            stem += f".layer{layer}"
        if head is not None:
            stem += f".head{head}"
        print(picture.text(width))
        for suffix in (".png", ".svg", ".html"):
            path = folder / f"{stem}{suffix}"
            picture.save(path)
            print(f"wrote {path}")


def file_stem(text: str) -> str:
    """A short file name that tells the text: letters and digits of any script.

    Example:
        >>> file_stem("Tuesday, 3 March"), file_stem("2026年3月3日"), file_stem("../..")
        ('Tuesday-3-March', '2026年3月3日', 'alignment')
    """
    kept = re.sub(r"[^\w]+", "-", unicodedata.normalize("NFC", text)).strip("-_")
    return kept.encode("utf-8")[:80].decode("utf-8", "ignore") or "alignment"
