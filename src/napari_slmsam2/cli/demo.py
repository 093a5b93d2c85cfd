"""``napari-slmsam2 demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_slmsam2.cli._options import Force

if TYPE_CHECKING:
    from napari_slmsam2.sample import Sample

EPILOG = """
[bold]Example[/bold]

  napari-slmsam2 demo --out demo
"""


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files; made if needed.")],
    force: Force = False,
) -> None:
    """Try everything on a generated scan: annotate, propagate, evaluate.

    Writes a scan with two organs (image.nii.gz), one annotated slice of each (seeds.nii.gz), the
    finished label map (labels.nii.gz), the truth (truth.nii.gz), a picture of the result
    (overview.png) and a report (report.json).
    """
    from napari_slmsam2.cli._console import log, show
    from napari_slmsam2.cli._outputs import check_outputs
    from napari_slmsam2.cli._propagation import run_job
    from napari_slmsam2.cli.propagate import PropagateOptions
    from napari_slmsam2.core.errors import OutputError
    from napari_slmsam2.evaluate import evaluate_labels, render_table
    from napari_slmsam2.sample import make_sample

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"--out {out}", "cannot be made a folder", found=error.strerror
        ) from error
    names = ("image.nii.gz", "seeds.nii.gz", "truth.nii.gz")
    results = ("labels.nii.gz", "overview.png", "report.json")
    check_outputs({f"--out: {name}": out / name for name in names + results}, [], force=force)
    sample = make_sample()
    seeded = _write_inputs(sample, out, names)
    session = run_job(
        PropagateOptions(
            image=out / names[0],
            seeds=out / names[1],
            out=out / results[0],
            window="soft_tissue",
            qc=out / results[1],
            report=out / results[2],
            force=force,
        )
    )
    volume = sample.volume
    scores = evaluate_labels(
        session.labels,
        sample.labels,
        spacing=volume.spacing,
        unit=volume.unit,
        axis=volume.axis,
        exclude=seeded,
    )
    show(render_table(scores))
    log("Next", f"open {out / results[1]}, then propagate your own scan")


def _write_inputs(
    sample: Sample, out: Path, names: tuple[str, str, str]
) -> dict[int, tuple[int, ...]]:
    """Write image, seeds and truth; the annotated slice of every label."""
    import nibabel

    from napari_slmsam2.evaluate import choose_seeds, seed_volume
    from napari_slmsam2.io import atomic_write

    volume, truth = sample.volume, sample.labels
    seeded = {label: choose_seeds(truth == label, volume.axis, 1) for label in sample.names}
    make_image: Any = nibabel.Nifti1Image
    arrays = (volume.data, seed_volume(truth, seeded, volume.axis), truth)
    for name, array in zip(names, arrays, strict=True):
        image = make_image(array, volume.affine)
        image.header.set_xyzt_units("mm")
        atomic_write(out / name, image.to_filename, overwrite=True)
    return seeded
