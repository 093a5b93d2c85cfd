from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_slmsam2.io import describe, read_image, read_labels, write_labels

VOLUMES = Path(__file__).parents[3] / "shared" / "volumes"
FOLDERS = sorted(p.parent for p in VOLUMES.glob("*/image.nii.gz"))
IGNORED = ("datatype", "bitpix", "cal_max", "cal_min", "glmax", "glmin", "intent_code")


@pytest.mark.skipif(not FOLDERS, reason="the shared volumes are not there")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_a_real_volume_round_trips(folder, tmp_path):
    image_path, labels_path = folder / "image.nii.gz", folder / "labels.nii.gz"
    loaded = read_image(image_path)
    spacing = loaded.volume.spacing
    assert spacing[loaded.volume.axis] == max(spacing)
    labels = read_labels(labels_path, loaded)
    np.testing.assert_array_equal(labels, np.asarray(nib.load(labels_path).dataobj))
    out = write_labels(tmp_path / "labels.nii.gz", labels, loaded)
    image, written = nib.load(image_path), nib.load(out)
    for name in image.header:
        if name not in IGNORED:
            assert written.header[name].tobytes() == image.header[name].tobytes(), name
    assert written.affine.tobytes() == image.affine.tobytes()
    assert written.get_data_dtype() == np.min_scalar_type(int(labels.max()))
    np.testing.assert_array_equal(read_labels(out, loaded), labels)
    description = describe(loaded)
    assert description["orientation"] == "".join(nib.aff2axcodes(image.affine))
    window = description["window"]
    low, high = np.percentile(image.get_fdata(), [0.5, 99.5])
    assert (window["low"], window["high"]) == pytest.approx((low, high))
