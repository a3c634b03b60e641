"""Training: the settings, the run directory, and the loop."""

from __future__ import annotations

from regard.training.interruption import Interrupted
from regard.training.loop import Result, fit
from regard.training.run import Run, first_process
from regard.training.settings import TrainingSettings
from regard.training.tables import from_table, to_table

__all__ = [
    "Interrupted",
    "Result",
    "Run",
    "TrainingSettings",
    "first_process",
    "fit",
    "from_table",
    "to_table",
]
