"""The records of a run as TensorBoard's event files, on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regard.errors import UserError


class TensorBoard:
    """Writes every number of a record under `FOLDER/KIND/NAME`; records of `first` and later steps, left by an earlier process, are dropped."""

    def __init__(self, folder: Path, first: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("the setting tensorboard needs TensorBoard: pip install tensorboard") from None
        self._writer = SummaryWriter(str(folder), purge_step=first)

    def write(self, record: dict[str, Any]) -> None:
        """Write one record of `metrics.jsonl`."""
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
