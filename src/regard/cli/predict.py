"""`regard predict`: answers for a file, for standard input, or at a prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from regard.cli.flags import answering, check_output
from regard.errors import UserError
from regard.tasks.task import Answer

CHUNK = 256
"""The most lines answered together; the output appears after each chunk."""
BLOCK = 1 << 16
"""The most bytes read from standard input at once."""


def predict(
    run: Path,
    input: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    *,
    text: str | None = None,
    output: Path | None = None,
    beam: int | None = None,
    length_penalty: float | None = None,
    n_best: int = 1,
    set: Annotated[list[str] | None, Parameter(negative=())] = None,
    device: str = "cpu",
) -> None:
    """Answer each line of a file, of standard input (no file, or -), or each line typed at a prompt.

    An empty line gets an empty answer. With --n-best each answer is a line: number of the input, score, text, separated
    by tabs.

    Parameters
    ----------
    run
        The run directory.
    input
        A UTF-8 text file, one input a line; standard input when not given.
    text
        Answer just this.
    output
        A file for the answers instead of standard output; written whole or not at all.
    beam
        The width of the search (1 is greedy); the run's own setting when not given.
    length_penalty
        The exponent of the length penalty; the run's own setting when not given.
    n_best
        How many answers to give to each input.
    set
        Any other setting of the task with which to answer, as field=value; may be repeated.
    device
        Where to compute.
    """
    from regard.durable import write_file
    from regard.tasks.experiment import Trained

    if n_best < 1:
        raise UserError(f"--n-best must be at least 1, it is {n_best}")
    check_output(output)
    how = answering(set or [], {"beam": beam, "length_penalty": length_penalty})
    trained = Trained.open(run, device, how)
    if "beam" in trained.task.answering and "beam" not in how and n_best > trained.task.settings.beam:
        trained = replace(trained, task=trained.task.changed(beam=n_best))
    if input is not None and text is None and input.is_file():
        whole = trained.task.predict_file(trained.model, input)
        if whole is not None:
            if n_best > 1:
                raise UserError(
                    f"{input}: a file of this kind takes one answer to each question, not --n-best {n_best}"
                )
            print(whole, end="") if output is None else write_file(output, whole.encode())
            return
    prompts = text is None and input is None and sys.stdin.isatty()
    chunks, where = _chunks(input, text, prompts)
    answered: list[str] = []
    start = 0
    for chunk in chunks:
        try:
            answers = trained.task.predict(
                trained.model,
                chunk,
                n_best=n_best,
                where=where,
                first=start + 1,
            )
        except UserError as error:
            if not prompts:
                raise
            print(error, file=sys.stderr)  # whoever typed it can type another
            continue
        written = [row for place, one in enumerate(answers, start + 1) for row in _rows(place, one, n_best)]
        start += len(chunk)
        if output is None:
            print("\n".join(written), flush=True)
        else:
            answered += written
    if output is not None:
        write_file(output, "".join(f"{row}\n" for row in answered).encode())


def _rows(place: int, answer: Answer, n_best: int) -> list[str]:
    if n_best == 1:
        return [answer.text]
    return [f"{place}\t{score:.4f}\t{text}" for text, score in answer.others or [(answer.text, answer.score)]]


def _chunks(input: Path | None, text: str | None, prompts: bool) -> tuple[Iterator[Sequence[str]], str]:
    from regard.data import read_lines

    if text is not None:
        if input is not None:
            raise UserError("give a file or --text, not both")
        return iter([[text]]), "--text"
    if prompts:
        print("One input a line; Ctrl-D ends.", file=sys.stderr)
        return _typed(), "the prompt"
    if input is None or str(input) == "-":
        return _arriving(sys.stdin.buffer), "standard input"
    if not input.exists():
        raise UserError(f"{input}: there is no such file (for a text itself use --text)")
    return _cut(read_lines(input)), str(input)


def _cut(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(lines), CHUNK):
        yield lines[start : start + CHUNK]


def _typed() -> Iterator[Sequence[str]]:
    while True:
        try:
            yield [input("› ")]
        except EOFError:
            print(file=sys.stderr)
            return


def _arriving(stream: Any) -> Iterator[Sequence[str]]:
    """The lines of a stream, as many at a time as have arrived: none waits for the next."""
    number, rest = 0, b""
    while block := stream.read1(BLOCK):
        *lines, rest = (rest + block).split(b"\n")
        yield from _cut([_decoded(line, place) for place, line in enumerate(lines, number + 1)])
        number += len(lines)
    if rest:
        yield [_decoded(rest, number + 1)]


def _decoded(line: bytes, number: int) -> str:
    try:
        text = line.decode("utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1})"
        ) from None
    return text.removeprefix("\ufeff") if number == 1 else text
