"""How good a label volume is: overlap, surfaces, over-propagation; tables and pictures."""

from napari_slmsam2.evaluate.plot import plot_report
from napari_slmsam2.evaluate.protocol import choose_seeds, largest_slice, seed_volume
from napari_slmsam2.evaluate.qc import contact_sheet
from napari_slmsam2.evaluate.report import (
    EvaluationReport,
    LabelScores,
    Scores,
    Summary,
    bootstrap_interval,
    evaluate_labels,
    summarise,
)
from napari_slmsam2.evaluate.table import render_table

__all__ = [
    "EvaluationReport",
    "LabelScores",
    "Scores",
    "Summary",
    "bootstrap_interval",
    "choose_seeds",
    "contact_sheet",
    "evaluate_labels",
    "largest_slice",
    "plot_report",
    "render_table",
    "seed_volume",
    "summarise",
]
