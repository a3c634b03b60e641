"""`regard tasks`: what there is."""

from __future__ import annotations


def tasks() -> None:
    """List the tasks, the data they read, and their models."""
    from rich.console import Console
    from rich.table import Table

    from regard.attention.mechanism import listing
    from regard.tasks import TASKS

    table = Table(box=None, pad_edge=False)
    for column in ("task", "what it does", "data (--data)", "models"):
        table.add_column(column)
    for load in TASKS.values():
        kind = load()
        table.add_row(kind.name, kind.summary, kind.data_format, ", ".join(kind.models))
    console = Console()
    console.print(table)
    console.print(f"\nAttention: {listing()}.")
    console.print(
        "Without --data a task trains on its embedded sample: regard train translation --run runs/first"
    )
