"""How good a label volume is: overlap, surfaces, over-propagation; tables and pictures."""

from napari_slmsam2.evaluate.bootstrap import bootstrap_interval, nested_interval, nested_mean
from napari_slmsam2.evaluate.plot import plot_report
from napari_slmsam2.evaluate.protocol import (
    PROTOCOLS,
    AnnotationProtocol,
    choose_seeds,
    largest_slice,
    object_extent,
    seed_volume,
)
from napari_slmsam2.evaluate.qc import contact_sheet
from napari_slmsam2.evaluate.report import (
    EvaluationReport,
    LabelScores,
    Scores,
    Summary,
    evaluate_labels,
    summarise,
)
from napari_slmsam2.evaluate.table import render_table

__all__ = [
    "PROTOCOLS",
    "AnnotationProtocol",
    "EvaluationReport",
    "LabelScores",
    "Scores",
    "Summary",
    "bootstrap_interval",
    "choose_seeds",
    "contact_sheet",
    "evaluate_labels",
    "largest_slice",
    "nested_interval",
    "nested_mean",
    "object_extent",
    "plot_report",
    "render_table",
    "seed_volume",
    "summarise",
]
