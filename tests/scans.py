"""A folder of small scans with seeds, for batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

AFFINE = np.diag([0.8, 0.9, 4.0, 1.0])


@dataclass(frozen=True)
class Scans:
    """``scans/NAME_0000.nii.gz``, ``seeds/NAME.nii.gz``, ``truth/NAME.nii.gz`` and ``out/``."""

    folder: Path
    names: tuple[str, ...]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def image(self, name: str) -> Path:
        return self.folder / "scans" / f"{name}_0000.nii.gz"

    def seeds(self, name: str) -> Path:
        return self.folder / "seeds" / f"{name}.nii.gz"

    @property
    def pattern(self) -> tuple[str, ...]:
        """Options of a batch of `propagate` over all scans."""
        return (
            *("--images", f"{self.folder}/scans/*_0000.nii.gz"),
            *("--seeds", f"{self.folder}/seeds/{{1}}.nii.gz"),
            *("-o", f"{self.out}/{{1}}.nii.gz"),
        )


def make_scans(folder: Path, count: int = 3, shape: tuple[int, int, int] = (30, 26, 16)) -> Scans:
    """Balls in noise, annotated on two slices."""
    for name in ("scans", "seeds", "truth", "out"):
        (folder / name).mkdir()
    scans = Scans(folder, tuple(f"case{i}" for i in range(count)))
    x, y, z = (2 * (i + 0.5) / n - 1 for i, n in zip(np.indices(shape), shape, strict=True))
    for number, name in enumerate(scans.names):
        truth = (x**2 + y**2 + (0.9 * z) ** 2 < 0.4 + 0.05 * number).astype(np.uint8)
        noise = np.random.default_rng(number).normal(0, 20, shape)
        seeds = np.zeros_like(truth)
        for index in (shape[2] // 3, 2 * shape[2] // 3):
            seeds[..., index] = truth[..., index]
        for path, array in (
            (scans.image(name), (100 + 300.0 * truth + noise).astype(np.int16)),
            (scans.seeds(name), seeds),
            (folder / "truth" / f"{name}.nii.gz", truth),
        ):
            image = nibabel.Nifti1Image(array, AFFINE)
            image.header.set_xyzt_units("mm")
            image.to_filename(path)
    return scans
