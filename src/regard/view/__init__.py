"""Pictures of attention, and the offline page that reports a run."""

from regard.view.chart import Chart, Series
from regard.view.heatmap import Heatmap, heatmap
from regard.view.report import Code, Headline, Headlines, Report, Section
from regard.view.table import Table

__all__ = [
    "Chart",
    "Code",
    "Headline",
    "Headlines",
    "Heatmap",
    "Report",
    "Section",
    "Series",
    "Table",
    "heatmap",
]
