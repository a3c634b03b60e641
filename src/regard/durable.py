"""Files that are there whole or not at all, whatever stops the process or the machine."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from regard.errors import UserError


def write_file(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, force it to the disk, and rename it into place.

    Raises:
        UserError: The disk is full or the folder cannot be written; what was there before is untouched.
    """
    beside = path.with_name(f".{path.name}.partial")
    with told(path):
        try:
            _write(beside, content)
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of `files` beside `path`, force all of it to the disk, and rename it into place.

    Raises:
        UserError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    beside, aside = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.replaced")
    with told(path):
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir(parents=True)
            for name, content in files.items():
                _write(beside / name, content)
            sync_folder(beside)
            if path.exists():
                os.replace(path, aside)
            os.replace(beside, path)
            shutil.rmtree(aside, ignore_errors=True)
        except BaseException:
            if aside.exists() and not path.exists():
                os.replace(aside, path)
            shutil.rmtree(beside, ignore_errors=True)
            raise
        sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append one line to `path`; where that fails, the file is cut back to its whole lines."""
    with told(path), path.open("ab") as file:
        size = file.tell()
        try:
            file.write(line.encode() + b"\n")
            file.flush()
        except OSError:
            os.truncate(path, size)
            raise


def remove_folder(path: Path) -> None:
    """Remove a folder so that no moment shows half of it under its own name."""
    aside = path.with_name(f".{path.name}.removed")
    os.replace(path, aside)
    shutil.rmtree(aside)


def clean(folder: Path) -> None:
    """Remove what an earlier process, killed while writing or removing, left beside the finished files.

    A folder that was about to be replaced when the process was killed takes its place again.
    """
    for aside in folder.glob(".*.replaced"):
        path = folder / aside.name[1:].removesuffix(".replaced")
        if path.exists():
            shutil.rmtree(aside)
        else:
            os.replace(aside, path)
    for left in [*folder.glob(".*.partial"), *folder.glob(".*.removed")]:
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def sync_folder(folder: Path) -> None:
    """Force a folder's own entries (the names of its files) to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Force a file that was appended to onto the disk."""
    with told(path), path.open("ab") as file:
        os.fsync(file.fileno())


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn the errors of a full or unwritable disk at `path` into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{path}: cannot be written, the disk is full; nothing half-written was left behind"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EIO):
            raise UserError(f"{path}: cannot be written ({os.strerror(error.errno)})") from error
        raise


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
