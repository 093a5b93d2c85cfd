import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def nifti(tmp_path, rng):
    """Write a small NIfTI image and give its path."""

    def make(name="image.nii.gz", shape=(5, 6, 4), dtype=np.int16, affine=None, **fields):
        affine = np.diag([0.8, 0.9, 5.0, 1.0]) if affine is None else affine
        data = rng.integers(0, 100, shape).astype(dtype)
        image = nib.Nifti1Image(data, affine)
        image.header.set_xyzt_units("mm")
        for key, value in fields.items():
            image.header[key] = value
        path = tmp_path / name
        image.to_filename(path)
        return path

    return make
