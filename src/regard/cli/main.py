"""The entry point: parse, run, and turn the user's errors into one sentence and exit status 2."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

from regard.errors import UserError, require

# What a path of the user's, or the disk, may be to blame for; any other OSError is a bug of ours.
ENVIRONMENT = (
    *(
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.EEXIST,
    ),
    *(errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 2 bad input, 130 interrupted."""
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except UserError as error:
        print(f"regard: {_process()}{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("regard: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in ENVIRONMENT:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"regard: {_process()}{where}{os.strerror(error.errno).lower()}", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    cyclopts: Any = require("cyclopts", "tasks")
    from regard import __version__
    from regard.cli.demo import demo
    from regard.cli.evaluate import evaluate
    from regard.cli.export import export
    from regard.cli.predict import predict
    from regard.cli.show import show
    from regard.cli.tasks import tasks
    from regard.cli.train import train

    app = cyclopts.App(
        name="regard",
        help="Choose, tune, train and look at attention. A mechanism is spelt score/normalizer[/mask], such as "
        "additive/softmax, cosine/sparsemax or dot/top-4/window-64; none is a model without attention.",
        version=__version__,
        help_format="markdown",
    )
    for command in (tasks, train, evaluate, predict, show, export, demo):
        app.command(command)
    try:
        status = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        raise UserError(f"{_one_line(error)} (`regard --help` tells more)") from None
    return status if isinstance(status, int) else 0


def _process() -> str:
    """Which of several processes speaks, where it is not the first."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"process {rank}: "


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
