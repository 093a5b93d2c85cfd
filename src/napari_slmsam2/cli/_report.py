"""The report file, the table per label and the slices to check after a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from napari_slmsam2.core.quality import Suggestion
    from napari_slmsam2.session.session import SegmentationSession

SUGGESTIONS_SHOWN = 3
_SUGGESTIONS_REPORTED = 50
_LOST = 0.1


def label_facts(session: SegmentationSession) -> dict[int, dict[str, Any]]:
    """The result of every label, by label value.

    Returns
    -------
    dict
        ``seeds``, ``extent``, ``slices`` (with the label), ``first``, ``last``, ``voxels``,
        ``mean_confidence`` (over its propagated slices; None without any).
    """
    import numpy as np

    volume, start = session.volume, session.volume.first_slice
    counts = {label: np.zeros(volume.n_slices, int) for label in session.prompts.labels}
    for index in range(volume.n_slices):
        plane = np.asarray(session.labels[volume.slicer(index)])
        for label, area in zip(*np.unique(plane, return_counts=True), strict=True):
            if label:
                counts.setdefault(int(label), np.zeros(volume.n_slices, int))[index] = area
    facts, quality = {}, session.quality
    for label in sorted(counts):
        present = np.flatnonzero(counts[label])
        scores = [q.confidence for q in quality.get(label, {}).values() if q.area]
        extent = session.prompts.extents.get(label)
        facts[label] = {
            "seeds": [index + start for index in session.prompts.seeds(label)],
            "extent": None if extent is None else (extent[0] + start, extent[1] + start),
            "slices": len(present),
            "first": int(present[0]) + start if len(present) else None,
            "last": int(present[-1]) + start if len(present) else None,
            "voxels": int(counts[label].sum()),
            "mean_confidence": float(np.mean(scores)) if scores else None,
        }
    return facts


def label_table(facts: Mapping[int, Mapping[str, Any]]) -> Table:
    """One row per label."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("label", "seeds", "slices", "first", "last", "voxels", "mean confidence"):
        table.add_column(name, justify="right", no_wrap=True)
    for label, fact in facts.items():
        confidence = fact["mean_confidence"]
        cells = (
            label,
            len(fact["seeds"]),
            fact["slices"],
            "-" if fact["first"] is None else fact["first"],
            "-" if fact["last"] is None else fact["last"],
            fact["voxels"],
            "-" if confidence is None else f"{confidence:.2f}",
        )
        table.add_row(*map(str, cells))
    return table


def lost_labels(session: SegmentationSession) -> list[int]:
    """Labels whose masks do not continue their annotations on any slice beside them.

    A label is tested where it was found on at least one such slice; it is lost where the best
    overlap (Dice) with the annotation beside it is below 0.1.
    """
    import numpy as np

    volume, quality = session.volume, session.quality
    best: dict[int, float] = {}
    for prompt in session.prompts:
        if prompt.mask is None:
            continue
        for index in (prompt.index - 1, prompt.index + 1):
            if index in quality.get(prompt.label, {}):
                found = np.asarray(session.labels[volume.slicer(index)]) == prompt.label
                if not found.any():
                    continue
                both = int(np.count_nonzero(found & prompt.mask))
                total = int(np.count_nonzero(found)) + int(np.count_nonzero(prompt.mask))
                best[prompt.label] = max(best.get(prompt.label, 0.0), 2 * both / total)
    return sorted(label for label, overlap in best.items() if overlap < _LOST)


def suggestions(session: SegmentationSession) -> list[Suggestion]:
    """Slices to check: annotations of few voxels first, then by urgency."""
    from napari_slmsam2.core.input_checks import find_stray_seeds
    from napari_slmsam2.core.quality import Suggestion

    stray = [
        Suggestion(s.label, s.index, 1.0, f"annotation of {plural(s.voxels, 'voxel')} only")
        for s in find_stray_seeds(session.prompts)
    ]
    first = session.volume.first_slice
    return [replace(one, index=one.index + first) for one in (*stray, *session.suggestions())]


def plural(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def suggestion_text(session: SegmentationSession) -> str | None:
    """The slices that need a check first, in words."""
    best = [s for s in suggestions(session) if s.score > 0][:SUGGESTIONS_SHOWN]
    if not best:
        return None
    return "; ".join(f"slice {s.index} of label {s.label} ({s.reason})" for s in best)


def session_report(session: SegmentationSession) -> dict[str, Any]:
    """Summary of a session after its runs, for a report file."""
    from napari_slmsam2.session.file import provenance

    labels: dict[str, dict[str, Any]] = {}
    quality = session.quality
    for label, facts in label_facts(session).items():
        scores = {
            str(index + session.volume.first_slice): {**asdict(q), "confidence": q.confidence}
            for index, q in sorted(quality.get(label, {}).items())
        }
        labels[str(label)] = {**facts, "quality": scores}
    return {
        **session.summary(),
        "labels": labels,
        "suggestions": [asdict(s) for s in suggestions(session)[:_SUGGESTIONS_REPORTED]],
        "memory": peak_memory(),
        "versions": provenance(),
    }


def peak_memory() -> dict[str, int | None]:
    """The most memory that this process has held, in bytes; None where it is not known."""
    peak: int | None
    if sys.platform == "win32":
        import psutil

        peak = psutil.Process().memory_info().peak_wset
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
    cuda: int | None = None
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        cuda = torch.cuda.max_memory_allocated()
    return {"peak_resident_bytes": peak, "peak_cuda_bytes": cuda}


def write_json(path: Path, content: Mapping[str, Any], *, force: bool) -> None:
    """Write a JSON file, completely or not at all."""
    from napari_slmsam2.io import atomic_write

    text = json.dumps(content, indent=1) + "\n"
    atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"), overwrite=force)
