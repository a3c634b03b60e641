"""`regard export`: a trained run for other programs."""

from __future__ import annotations

from pathlib import Path

from regard.errors import UserError


def export(run: Path, *, format: str, output: Path) -> None:
    """Write a trained model in the format of another program, which then runs it without regard.

    Parameters
    ----------
    run
        The run directory.
    format
        ctranslate2: Transformers of translation, for CTranslate2.
    output
        A new folder for the files.
    """
    from regard.durable import write_folder
    from regard.export import FORMATS
    from regard.tasks import unknown
    from regard.tasks.experiment import Trained

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if output.exists():
        raise UserError(f"--output {output} already exists: choose another folder")
    files = FORMATS[format](Trained.open(run))
    write_folder(output, files)
    print(f"wrote {output}: {', '.join(files)}")
