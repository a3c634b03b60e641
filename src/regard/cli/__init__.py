"""The command line: one file per command, thin."""

from regard.cli.main import main

__all__ = ["main"]
