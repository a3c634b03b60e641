"""The records of a run as TensorBoard's event files, on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regard.errors import UserError


class TensorBoard:
    """Writes every number of a record as `KIND/NAME`.

    From the step of the first record on, what an earlier process left is dropped: training is repeating it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("the setting tensorboard needs TensorBoard: pip install tensorboard") from None
        self._folder = folder
        self._open = SummaryWriter
        self._writer: Any = None

    def write(self, record: dict[str, Any]) -> None:
        """Write one record of `metrics.jsonl`."""
        if self._writer is None:
            self._writer = self._open(str(self._folder), purge_step=record["step"])
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
