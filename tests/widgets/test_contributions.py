"""The manifest, and its readers, writers and samples in a real viewer."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import npe2
import nrrd
import numpy as np
import pytest
import tifffile
import yaml
import zarr
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.settings import get_plugin_settings, get_settings
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_slmsam2.contributions import readers
from napari_slmsam2.contributions.writers import write_labels
from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import (
    GridMismatchError,
    OutputError,
    SlmSam2Warning,
    VolumeError,
)
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL, list_models
from napari_slmsam2.io import LabelTable, read_image, read_label_map
from napari_slmsam2.io import write_labels as save_labels_of
from napari_slmsam2.io.formats import FORMATS
from napari_slmsam2.io.layer_grid import METADATA_KEY
from napari_slmsam2.sample import make_sample
from napari_slmsam2.widgets.files.saving import describe_image, save_labels
from tests.dicom_files import oblique, save_series
from tests.labelled_files import write_base

PLUGIN = "napari-slmsam2"
SHAPE = (5, 6, 4)
OBLIQUE = np.array(
    [[0.0, -0.9, 0.0, 12.0], [0.8, 0.0, 0.0, -7.0], [0.0, 0.0, 5.0, 3.0], [0.0, 0.0, 0.0, 1.0]]
)
STRAIGHT = np.diag([0.8, 0.9, 5.0, 1.0])
STRAIGHT[:2, 3] = 12, -7


@pytest.fixture(scope="module")
def manifest(repository) -> npe2.PluginManifest:
    return npe2.PluginManifest.from_file(repository / "napari.yaml")


@pytest.fixture
def viewer(npe2pm, manifest) -> ViewerModel:
    """A viewer without its window, which knows this plugin."""
    npe2pm.register(manifest)
    return ViewerModel()


@pytest.fixture
def window(npe2pm, manifest, make_napari_viewer):
    """A viewer with its window."""
    npe2pm.register(manifest)
    return make_napari_viewer()


def scan(path: Path, shape=SHAPE, dtype=np.int16, affine=OBLIQUE, **fields) -> np.ndarray:
    data = np.random.default_rng(1).integers(0, 90, shape).astype(dtype)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    for key, value in fields.items():
        image.header[key] = value
    image.to_filename(path)
    return data


def open_one(viewer, path: Path):
    [layer] = viewer.open(path, plugin=PLUGIN)
    return layer


def open_panel(window):
    """From its menu; the panel makes its Labels layer when it is shown."""
    dock, panel = window.window.add_plugin_dock_widget(PLUGIN, "Annotate")
    QApplication.processEvents()
    return dock, panel


def units(layer) -> list[str]:
    return [f"{unit:~}" for unit in layer.units]


def labels_on(viewer, image: Image) -> Labels:
    """What the panel makes: labels on the exact grid of an image."""
    data = np.zeros(image.data.shape, np.uint8)
    data[1:3, 2:4, 1:3] = 2
    return viewer.add_labels(
        data, name="organ", scale=image.scale, translate=image.translate, units=image.units,
        axis_labels=image.axis_labels, metadata=dict(image.metadata),
    )  # fmt: skip


# The manifest.


def test_every_command_resolves(manifest):
    assert len(manifest.contributions.commands) >= 5
    for command in manifest.contributions.commands:
        assert callable(npe2.manifest.utils.import_python_name(command.python_name)), command.id


def test_the_window_has_the_formats_of_the_command_line(manifest):
    contributions = manifest.contributions
    patterns = {pattern for reader in contributions.readers for pattern in reader.filename_patterns}
    without_suffix = {"[!.]" * length for length in range(1, 13)}
    without_suffix |= {"[12].[0-9]*.[0-9]*.[0-9]*[0-9]", "2.25.[0-9]*[0-9]"}
    assert patterns - without_suffix == {f"*{s}" for known in FORMATS for s in known.readable}
    assert without_suffix < patterns
    offered = {ext for writer in contributions.writers for ext in writer.filename_extensions}
    writable = {suffix for known in FORMATS for suffix in known.writable}
    # Names of which the last suffix decides the format, and what is in the file.
    assert offered == writable | {".ome.tif", ".ome.zarr", ".seg.nrrd"}


def test_npe2_finds_nothing_wrong(repository):
    done = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", "--imports", str(repository / "napari.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_widgets_are_in_both_menus(manifest):
    contributions = manifest.contributions
    widgets = {w.command: w.display_name for w in contributions.widgets}
    assert widgets == {
        "napari-slmsam2.annotate": "Annotate",
        "napari-slmsam2.adapt": "Adapt",
        "napari-slmsam2.label_table": "Label table",
        "napari-slmsam2.finish": "Finish",
    }
    entries = contributions.menus["napari/layers/annotate"]
    assert [entry.command for entry in entries] == list(widgets)


def test_napari_opens_the_panel_from_its_menu(window):
    """As the menu does.

    napari gives the viewer only to a parameter that is called ``napari_viewer`` or annotated with
    the string ``napari.viewer.Viewer``, and it gives a proxy, whose layers are proxies as well:
    ``layer is other`` fails on them. The viewer itself is the proxy's ``__wrapped__``.
    """
    [image] = window.open_sample(PLUGIN, "scan")
    dock, panel = open_panel(window)
    assert panel.workspace.image is image
    labels = panel.workspace.labels
    assert any(labels is layer for layer in window.layers)
    assert panel.strip.n_slices == panel.workspace.annotation.volume.n_slices
    window.window.remove_dock_widget(dock)


def test_preferences_are_read_by_napari(viewer, plugin_settings):
    del plugin_settings, viewer
    engine = get_plugin_settings(PLUGIN).engine
    assert engine.device == "auto"
    assert engine.models_folder == ""
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        engine.embedding_budget = -1
    engine.model = "interpolation"
    assert get_plugin_settings(PLUGIN).engine.model == "interpolation"


@pytest.mark.parametrize(("named", "selected"), [("organs", "organs"), ("gone", DEFAULT_MODEL)])
def test_an_adapted_model_can_be_the_default(tmp_path, window, plugin_settings, named, selected):
    del plugin_settings
    write_base(tmp_path / "organs.safetensors")
    engine = get_plugin_settings(PLUGIN).engine
    engine.models_folder = str(tmp_path)
    engine.adapted_model = named
    dock, panel = open_panel(window)
    assert panel.model.model == selected
    window.window.remove_dock_widget(dock)


def test_preferences_say_what_the_engine_says(repository):
    text = (repository / "napari.yaml").read_text()
    properties = yaml.safe_load(text)["contributions"]["configurations"]["engine"]["properties"]
    assert properties["model"]["default"] == DEFAULT_MODEL
    assert properties["model"]["enum"] == [card.name for card in list_models()]
    for name in ("embedding_budget", "embedding_disk"):
        budget = next(f for f in PropagationConfig.fields() if f.name == name)
        preference = properties[name]
        assert preference["default"] == budget.default
        assert preference["minimum"] == budget.metadata["minimum"]
        assert preference["title"] == f"{budget.metadata['title']} ({budget.metadata['unit']})"
        assert preference["description"].split() == budget.metadata["help"].split()


def test_contributions_load_without_qt_and_torch():
    code = """
import json, sys
from napari_slmsam2.contributions import readers, sample_data, writers
readers.get_reader("scan.nii.gz")
heavy = ("torch", "sam2", "napari", "qtpy", "nibabel", "scipy")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


# Reading.


def test_a_scan_opens_on_its_grid(window, tmp_path):
    data = scan(tmp_path / "scan.nii.gz", affine=STRAIGHT)
    layer = open_one(window, tmp_path / "scan.nii.gz")
    assert isinstance(layer, Image)
    assert layer.name == "scan"
    assert layer.data.dtype == np.int16
    np.testing.assert_array_equal(layer.data, data)
    np.testing.assert_allclose(layer.scale, (0.8, 0.9, 5.0), rtol=1e-6)
    np.testing.assert_allclose(layer.translate, (12, -7, 0), rtol=1e-6)
    assert units(layer) == ["mm"] * 3
    assert layer.axis_labels == ("x", "y", "z")


def test_an_oblique_scan_keeps_its_slices_straight(viewer, tmp_path):
    scan(tmp_path / "scan.nii")
    layer = open_one(viewer, tmp_path / "scan.nii")
    np.testing.assert_allclose(layer.scale, (0.8, 0.9, 5.0), rtol=1e-6)
    np.testing.assert_array_equal(layer.translate, 0)
    np.testing.assert_array_equal(layer.rotate, np.eye(3))
    np.testing.assert_allclose(layer.metadata[METADATA_KEY]["affine"], OBLIQUE, rtol=1e-6)


def test_time_comes_first(viewer, tmp_path):
    data = scan(tmp_path / "series.nii.gz", (5, 6, 4, 3))
    layer = open_one(viewer, tmp_path / "series.nii.gz")
    assert layer.data.shape == (3, 5, 6, 4)
    np.testing.assert_array_equal(layer.data, np.moveaxis(data, -1, 0))
    np.testing.assert_allclose(layer.scale, (1, 0.8, 0.9, 5), rtol=1e-6)
    assert layer.axis_labels == ("t", "x", "y", "z")
    assert units(layer)[1:] == ["mm"] * 3
    assert layer.metadata[METADATA_KEY]["shape"] == SHAPE


def test_channels_become_layers(viewer, tmp_path):
    data = scan(tmp_path / "two.nii.gz", (5, 6, 4, 1, 2))
    layers = viewer.open(tmp_path / "two.nii.gz", plugin=PLUGIN)
    assert [layer.name for layer in layers] == ["two 0", "two 1"]
    for i, layer in enumerate(layers):
        np.testing.assert_array_equal(layer.data, data[..., 0, i])
        np.testing.assert_allclose(layer.scale, (0.8, 0.9, 5.0), rtol=1e-6)
        assert layer.metadata[METADATA_KEY]["shape"] == SHAPE


def test_colours_open_as_rgb(window, tmp_path):
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours = np.random.default_rng(1).integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    data = np.ascontiguousarray(colours).view(dtype).reshape(SHAPE)
    nib.Nifti1Image(data, OBLIQUE).to_filename(tmp_path / "photo.nii.gz")
    layer = open_one(window, tmp_path / "photo.nii.gz")
    assert layer.rgb
    np.testing.assert_array_equal(layer.data, colours)


def test_scaled_intensities_are_those_of_the_scan(viewer, tmp_path):
    stored = np.arange(120, dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti1Image(stored, OBLIQUE)
    image.header.set_slope_inter(2.0, -1024.0)
    image.to_filename(tmp_path / "ct.nii")
    with (tmp_path / "ct.nii").open("r+b") as file:
        file.seek(352)
        file.write(stored.tobytes(order="F"))
    layer = open_one(viewer, tmp_path / "ct.nii")
    np.testing.assert_array_equal(layer.data, stored * 2.0 - 1024)


def test_large_uncompressed_scans_stay_in_the_file(window, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_IN_MEMORY", 100)
    data = scan(tmp_path / "scan.nii", (5, 6, 4, 3))
    layer = open_one(window, tmp_path / "scan.nii")
    assert layer.data.chunks == ((1, 1, 1), (5,), (6,), (1, 1, 1, 1))
    np.testing.assert_array_equal(np.asarray(layer.data), np.moveaxis(data, -1, 0))


def test_mgh_opens(viewer, tmp_path):
    data = np.arange(120, dtype=np.int16).reshape(SHAPE)
    nib.MGHImage(data, OBLIQUE).to_filename(tmp_path / "T1.mgz")
    layer = open_one(viewer, tmp_path / "T1.mgz")
    np.testing.assert_array_equal(layer.data, data)
    np.testing.assert_allclose(layer.scale, (0.8, 0.9, 5.0), rtol=1e-6)
    assert units(layer) == ["mm"] * 3


def test_nrrd_opens(viewer, tmp_path):
    data = np.arange(120, dtype=np.float32).reshape(SHAPE)
    header = {"spacings": np.array([0.5, 0.6, 2.0]), "units": ["um"] * 3}
    nrrd.write(str(tmp_path / "cells.nrrd"), data, header)
    layer = open_one(viewer, tmp_path / "cells.nrrd")
    np.testing.assert_array_equal(layer.data, data)
    np.testing.assert_allclose(layer.scale, (0.5, 0.6, 2.0))
    assert units(layer) == ["µm"] * 3


def test_ome_tiff_keeps_its_voxel_size(viewer, tmp_path):
    data = np.arange(2 * 4 * 6 * 5, dtype=np.uint16).reshape(2, 4, 6, 5)
    sizes = {"PhysicalSizeZ": 2.0, "PhysicalSizeY": 0.6, "PhysicalSizeX": 0.5}
    tifffile.imwrite(tmp_path / "cells.ome.tif", data, metadata={"axes": "CZYX", **sizes})
    layers = viewer.open(tmp_path / "cells.ome.tif", plugin=PLUGIN)
    assert len(layers) == 2
    np.testing.assert_array_equal(layers[1].data, data[1])
    np.testing.assert_allclose(layers[0].scale, (2.0, 0.6, 0.5))
    assert units(layers[0]) == ["µm"] * 3
    assert layers[0].axis_labels == ("z", "y", "x")


def test_a_single_slice_opens(viewer, tmp_path):
    data = scan(tmp_path / "slice.nii", (5, 6))
    layer = open_one(viewer, tmp_path / "slice.nii")
    np.testing.assert_array_equal(layer.data, data)
    assert layer.axis_labels == ("x", "y")
    assert METADATA_KEY not in layer.metadata


@pytest.mark.parametrize(
    "name", ["scan_seg.nii.gz", "labels.nii", "sub-01_dseg.nii.gz", "Liver-Mask.nii", "aseg.nii"]
)
def test_label_maps_are_told_by_their_name(viewer, tmp_path, name):
    data = scan(tmp_path / name, dtype=np.float64)
    layer = open_one(viewer, tmp_path / name)
    assert isinstance(layer, Labels)
    assert layer.data.dtype == np.uint8
    np.testing.assert_array_equal(layer.data, data)
    layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 7)
    assert layer.data[0, 0, 0] == 7


def test_label_maps_are_told_by_their_header(viewer, tmp_path):
    scan(tmp_path / "liver.nii.gz", intent_code=1002)
    assert isinstance(open_one(viewer, tmp_path / "liver.nii.gz"), Labels)


@pytest.mark.parametrize("name", ["scan.nii", "masked.nii", "segovia.nii", "relabelling.nii"])
def test_other_integers_are_images(viewer, tmp_path, name):
    scan(tmp_path / name, dtype=np.uint8)
    assert isinstance(open_one(viewer, tmp_path / name), Image)


def test_a_map_of_fractions_is_an_image_whatever_its_name(viewer, tmp_path):
    probability = np.linspace(0, 1, 120, dtype=np.float32).reshape(SHAPE)
    nib.Nifti1Image(probability, OBLIQUE).to_filename(tmp_path / "liver_mask.nii.gz")
    assert isinstance(open_one(viewer, tmp_path / "liver_mask.nii.gz"), Image)


def test_files_of_others_are_left_to_them(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    scan(tmp_path / "a.nii")
    assert readers.get_reader(tmp_path / "notes.txt") is None
    assert readers.get_reader(tmp_path / "missing.nii") is None
    assert readers.get_reader([str(tmp_path / "a.nii")] * 2) is None
    assert readers.get_reader(str(tmp_path / "a.nii")) is readers.read


def test_damage_is_named(tmp_path):
    scan(tmp_path / "scan.nii")
    whole = (tmp_path / "scan.nii").read_bytes()
    (tmp_path / "scan.nii").write_bytes(whole[:400])
    with pytest.raises(VolumeError, match=r"scan\.nii"):
        readers.read(str(tmp_path / "scan.nii"))


def test_a_folder_of_dicom_files_opens(window, tmp_path):
    stored, positions = save_series(tmp_path / "ct", order=[3, 0, 5, 1, 4, 2])
    layer = open_one(window, tmp_path / "ct")
    assert isinstance(layer, Image)
    assert layer.name == "ct"
    assert layer.axis_labels == ("z", "y", "x")
    assert units(layer) == ["mm"] * 3
    np.testing.assert_array_equal(layer.data, stored)
    np.testing.assert_allclose(layer.scale, (2.5, 0.8, 0.6))
    np.testing.assert_allclose(layer.metadata[METADATA_KEY]["affine"][:3, 3] * [-1, -1, 1],
                               positions[0])  # fmt: skip


def test_a_dicom_folder_is_opened_by_drag_and_drop(window, tmp_path, qtbot):
    save_series(tmp_path / "ct")
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(tmp_path / "ct"))])
    event = QDropEvent(
        QPointF(10, 10), Qt.DropAction.CopyAction, mime, Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip
    window.window._qt_viewer.dropEvent(event)
    qtbot.waitUntil(lambda: len(window.layers) == 1)
    assert window.layers[0].data.shape == (6, 5, 7)


@pytest.mark.parametrize(
    "name", ["{}", "IM000{}", "IM-0001-000{}", "1.2.840.10008.7.{}", "2.25.3298{}"]
)
def test_a_dicom_file_without_suffix_opens_its_series(viewer, tmp_path, name):
    stored, _ = save_series(tmp_path, name=name)
    found, reader = npe2.read_get_reader([str(tmp_path / name.format(0))], stack=False)
    assert reader.plugin_name == PLUGIN
    np.testing.assert_array_equal(found[0][0], stored)


@pytest.mark.parametrize("name", ["README", "DICOMDIR", "1.2.3.4.5"])
@pytest.mark.usefixtures("viewer")
def test_other_files_without_suffix_are_left_to_other_readers(tmp_path, name):
    (tmp_path / name).write_bytes(b"text" * 100)
    with pytest.raises(ValueError, match="No readers returned data"):
        npe2.read([str(tmp_path / name)], stack=False)


def test_all_series_of_a_dicom_folder_become_layers(viewer, tmp_path):
    save_series(tmp_path / "a", SeriesDescription="Liver", SeriesNumber=1)
    save_series(tmp_path / "b", SeriesDescription="Bone", SeriesNumber=2, shape=(3, 4, 4))
    save_series(tmp_path / "c", leave_out=[2], SeriesNumber=3)
    with pytest.warns(SlmSam2Warning, match=r"Not opened.*1 of its slices are missing"):
        layers = viewer.open(tmp_path, plugin=PLUGIN)
    assert [layer.data.shape for layer in layers] == [(6, 5, 7), (3, 4, 4)]
    assert layers[1].name.endswith("2 Bone CT, 3 x 4 x 4")


def test_dicom_files_opened_as_a_stack_are_one_layer(viewer, tmp_path):
    stored, _ = save_series(tmp_path, name="{}.dcm")
    files = [str(tmp_path / f"{i}.dcm") for i in (2, 0, 1)]
    [layer] = viewer.open(files, stack=True, plugin=PLUGIN)
    np.testing.assert_array_equal(layer.data, stored[:3])


def test_labels_of_a_dicom_image_are_saved_as_segmentation_and_as_nifti(viewer, tmp_path):
    save_series(tmp_path / "ct", orientation=oblique())
    labels = labels_on(viewer, open_one(viewer, tmp_path / "ct"))
    for name in ("organ.dcm", "organ.nii.gz"):
        labels.save(str(tmp_path / name), plugin=PLUGIN)
        found = read_label_map(tmp_path / name, read_image(tmp_path / "ct"))
        np.testing.assert_array_equal(found.array, labels.data)
    again = open_one(viewer, tmp_path / "organ.dcm")
    assert isinstance(again, Labels)
    assert list(again.features["label_name"]) == ["background", "Label 2"]
    assert np.count_nonzero(again.data == 2) == np.count_nonzero(labels.data)


# Writing.


def assert_same_grid(written: Path, image: Path) -> None:
    ours, theirs = nib.load(written).header, nib.load(image).header
    for key in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b",
                "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
                "xyzt_units"):  # fmt: skip
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    np.testing.assert_array_equal(ours["pixdim"][:4], theirs["pixdim"][:4])


@pytest.mark.filterwarnings("ignore:.*sform:napari_slmsam2.core.errors.SlmSam2Warning")
def test_labels_get_the_header_of_their_scan(window, tmp_path):
    scan(tmp_path / "scan.nii.gz", qform_code=2, sform_code=4, qoffset_x=1.25)
    labels = labels_on(window, open_one(window, tmp_path / "scan.nii.gz"))
    path = tmp_path / "organ.nii.gz"
    assert labels.save(str(path), plugin=PLUGIN) == [str(path)]
    written = nib.load(path)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels.data)
    assert_same_grid(path, tmp_path / "scan.nii.gz")

    labels.data[...] = 0
    labels.save(str(path), plugin=PLUGIN)
    assert not np.asarray(nib.load(path).dataobj).any()


def test_the_labels_of_the_panel_are_saved_on_the_grid_of_their_scan(window, tmp_path):
    """File > Save Selected Layers: a layer made on an image has the image's metadata."""
    scan(tmp_path / "scan.nii.gz")
    open_one(window, tmp_path / "scan.nii.gz")
    dock, panel = open_panel(window)
    labels = panel.workspace.labels
    assert METADATA_KEY in labels.metadata
    labels.save(str(tmp_path / "organ.nii.gz"), plugin=PLUGIN)
    assert_same_grid(tmp_path / "organ.nii.gz", tmp_path / "scan.nii.gz")
    window.window.remove_dock_widget(dock)


@pytest.mark.filterwarnings("ignore:.*OME-Zarr keeps:napari_slmsam2.core.errors.SlmSam2Warning")
@pytest.mark.parametrize("name", ["new.nii.gz", "new.nrrd", "new.ome.tif", "new.ome.zarr"])
def test_a_series_of_labels_is_saved_at_all_time_points(viewer, tmp_path, name):
    scan(tmp_path / "scan.nii.gz", (*SHAPE, 3), pixdim=[1, 0.8, 0.9, 5, 2.5, 0, 0, 0])
    image = open_one(viewer, tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(image.scale, (2.5, 0.8, 0.9, 5), rtol=1e-6)
    assert units(image)[0] == "s"
    labels = labels_on(viewer, image)
    labels.data[...] = np.random.default_rng(2).integers(0, 4, labels.data.shape)
    labels.save(str(tmp_path / name), plugin=PLUGIN)
    again = open_one(viewer, tmp_path / name)
    assert isinstance(again, Labels)
    order = "".join(again.axis_labels)
    assert order[0] == "t"
    expected = labels.data.transpose(["txyz".index(axis) for axis in order])
    np.testing.assert_array_equal(again.data, expected)
    np.testing.assert_allclose(again.scale, image.scale[["txyz".index(a) for a in order]])
    assert units(again) == units(image)


@pytest.mark.parametrize("name", ["new.ome.tif", "new.ome.zarr"])
def test_a_series_that_no_file_describes_keeps_its_layer_transform(viewer, tmp_path, name):
    data = np.random.default_rng(2).integers(0, 4, (4, 3, 6, 5)).astype(np.uint8)
    layer = viewer.add_labels(
        data, scale=(2.0, 30.0, 0.6, 0.5), units=("um", "s", "um", "um"),
        axis_labels=("z", "t", "y", "x"),
    )  # fmt: skip
    layer.save(str(tmp_path / name), plugin=PLUGIN)
    again = open_one(viewer, tmp_path / name)
    assert isinstance(again, Labels)
    assert again.axis_labels == ("t", "z", "y", "x")
    np.testing.assert_array_equal(again.data, np.moveaxis(data, 1, 0))
    np.testing.assert_allclose(again.scale, (30, 2, 0.6, 0.5))
    assert units(again) == ["s", "µm", "µm", "µm"]


def test_the_panel_saves_all_time_points(window, tmp_path, qtbot, monkeypatch):
    """The button, with what was painted on two time points and what a third one held before."""
    scan(tmp_path / "scan.nii.gz", (*SHAPE, 4))
    open_one(window, tmp_path / "scan.nii.gz")
    dock, panel = open_panel(window)
    labels = panel.workspace.labels
    labels.data[3, 1, 1, 1] = 9
    labels.brush_size = 1
    for time, label in ((0, 1), (2, 2)):
        window.dims.set_current_step(0, time)
        labels.paint((time, 2, 3, panel.workspace.index), label)
        QApplication.processEvents()
    path = tmp_path / "organ.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), "NIfTI"))
    panel.save_button.click()
    qtbot.waitUntil(path.exists)
    saved = np.moveaxis(np.asarray(nib.load(path).dataobj), -1, 0)
    np.testing.assert_array_equal(saved, labels.data)
    assert [set(np.unique(v)) - {0} for v in saved] == [{1}, set(), {2}, {9}]
    np.testing.assert_allclose(nib.load(path).affine, OBLIQUE, rtol=1e-6)
    window.window.remove_dock_widget(dock)


def test_an_edited_label_map_is_saved_as_it_was_opened(viewer, tmp_path):
    scan(tmp_path / "seg.nii.gz", dtype=np.uint8)
    labels = open_one(viewer, tmp_path / "seg.nii.gz")
    labels.data_setitem((np.array([0]), np.array([0]), np.array([0])), 44)
    labels.save(str(tmp_path / "new.nii.gz"), plugin=PLUGIN)
    assert np.asarray(nib.load(tmp_path / "new.nii.gz").dataobj)[0, 0, 0] == 44
    assert_same_grid(tmp_path / "new.nii.gz", tmp_path / "seg.nii.gz")


@pytest.mark.parametrize("name", ["new.seg.nrrd", "new.ome.zarr"])
def test_names_of_labels_travel_through_a_layer(viewer, tmp_path, name):
    scan(tmp_path / "scan.nii", affine=STRAIGHT)
    image = read_image(tmp_path / "scan.nii")
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:4, 1] = 2
    table = LabelTable({2: "liver"}, {2: (1.0, 0.5, 0.0, 1.0)})
    save_labels_of(tmp_path / "first.seg.nrrd", labels, image, table=table)
    layer = open_one(viewer, tmp_path / "first.seg.nrrd")
    assert list(layer.features["label_name"]) == ["background", "liver"]
    layer.save(str(tmp_path / name), plugin=PLUGIN)
    found = read_label_map(tmp_path / name, image)
    np.testing.assert_array_equal(found.array, labels)
    assert found.table.names == {2: "liver"}
    np.testing.assert_allclose(found.table.colours[2][:3], layer.get_color(2)[:3], atol=0.01)


def test_the_scan_of_one_format_gives_labels_of_another(viewer, tmp_path):
    scan(tmp_path / "scan.nii")
    labels = labels_on(viewer, open_one(viewer, tmp_path / "scan.nii"))
    for name in ("organ.nrrd", "organ.mgz", "organ.tif"):
        labels.save(str(tmp_path / name), plugin=PLUGIN)
    nrrd_data, _ = nrrd.read(str(tmp_path / "organ.nrrd"))
    np.testing.assert_array_equal(nrrd_data, labels.data)
    mgh = nib.load(tmp_path / "organ.mgz")
    np.testing.assert_allclose(mgh.affine, OBLIQUE, rtol=1e-5)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "organ.tif"), labels.data.T)
    reopened = open_one(viewer, tmp_path / "organ.nrrd")
    np.testing.assert_allclose(reopened.metadata[METADATA_KEY]["affine"], OBLIQUE, rtol=1e-5)


def test_tiff_keeps_the_voxel_size_of_any_layer(viewer, tmp_path):
    data = np.zeros((4, 6, 5), np.uint16)
    data[2, 3, 1] = 500
    layer = viewer.add_labels(data, scale=(2.0, 0.6, 0.5), units="um")
    layer.save(str(tmp_path / "cells.ome.tif"), plugin=PLUGIN)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "cells.ome.tif"), data)
    [reopened] = viewer.open(tmp_path / "cells.ome.tif", plugin=PLUGIN, layer_type="labels")
    np.testing.assert_allclose(reopened.scale, (2.0, 0.6, 0.5))
    assert units(reopened) == ["µm"] * 3


@pytest.mark.parametrize("name", ["cells.ome.zarr", "cells.zarr"])
def test_ome_zarr_keeps_the_place_of_any_straight_layer(viewer, tmp_path, name):
    data = np.zeros((4, 6, 5), np.uint16)
    data[2, 3, 1] = 500
    layer = viewer.add_labels(data, scale=(2.0, 0.6, 0.5), translate=(7, -8, 0.25), units="um")
    layer.save(str(tmp_path / name), plugin=PLUGIN)
    reopened = open_one(viewer, tmp_path / name)
    assert isinstance(reopened, Labels)
    np.testing.assert_array_equal(reopened.data, data)
    assert reopened.data.dtype == data.dtype
    np.testing.assert_array_equal(reopened.extent.world, layer.extent.world)
    assert units(reopened) == ["µm"] * 3
    assert reopened.axis_labels == ("z", "y", "x")


def test_the_panel_saves_labels_of_an_ome_zarr_image_where_it_lies(window, tmp_path):
    voxels = np.arange(120, dtype=np.uint16).reshape(4, 5, 6)
    group = zarr.open_group(tmp_path / "embryo.zarr", mode="w")
    group.create_array("0", data=voxels)
    steps = [
        {"type": "scale", "scale": [2.0, 0.5, 0.5]},
        {"type": "translation", "translation": [100.0, -3.0, 0.5]},
    ]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    multiscales = [{"axes": axes, "datasets": datasets}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    image = open_one(window, tmp_path / "embryo.zarr")
    np.testing.assert_array_equal(image.translate, (100, -3, 0.5))
    dock, panel = open_panel(window)
    labels = panel.workspace.labels
    labels.data[1, 2, 3] = 7
    source, grid = describe_image(image, panel.workspace.view)
    save_labels(tmp_path / "nuclei.ome.zarr", labels.data, source, grid)
    again = open_one(window, tmp_path / "nuclei.ome.zarr")
    assert isinstance(again, Labels)
    np.testing.assert_array_equal(again.data, labels.data)
    np.testing.assert_array_equal(again.extent.world, image.extent.world)
    window.window.remove_dock_widget(dock)


def colours_in(path) -> dict[int, list[int]]:
    found = zarr.open_group(path, mode="r").attrs["image-label"]["colors"]
    return {entry["label-value"]: entry["rgba"] for entry in found}


@pytest.mark.parametrize("show_selected", [False, True])
@pytest.mark.parametrize("chosen", [False, True])
def test_ome_zarr_keeps_the_colours_on_screen(viewer, tmp_path, chosen, show_selected):
    data = np.zeros(SHAPE, np.uint8)
    data[1, 1:3, 1] = 1, 7
    layer = viewer.add_labels(data, name="cells")
    if chosen:
        layer.colormap = {None: "white", 0: "transparent", 1: "#ff0000", 7: "#00ff0080"}
        expected = {1: [255, 0, 0, 255], 7: [0, 255, 0, 128]}
    else:
        expected = {
            label: np.rint(255 * np.asarray(layer.get_color(label))).tolist() for label in (1, 7)
        }
    layer.selected_label = 7
    layer.show_selected_label = show_selected
    layer.save(str(tmp_path / "cells.ome.zarr"), plugin=PLUGIN)
    assert colours_in(tmp_path / "cells.ome.zarr") == expected
    assert layer.show_selected_label == show_selected


def test_other_folders_are_left_to_others(viewer, tmp_path):
    (tmp_path / "photos").mkdir()
    assert readers.get_reader(tmp_path / "photos") is None
    tifffile.imwrite(tmp_path / "photos" / "1.tif", np.zeros((4, 5), np.uint8))
    assert readers.get_reader(tmp_path / "photos") is None
    (tmp_path / "empty.zarr").mkdir()
    assert readers.get_reader(tmp_path / "empty.zarr") is None


def test_the_preferences_of_the_documentation_open_every_folder_unasked(
    viewer, npe2pm, tmp_path, monkeypatch
):
    npe2pm.register(npe2.PluginManifest.from_distribution("napari"))
    wanted = {"*.zarr/": PLUGIN, "*/": "napari"}
    monkeypatch.setattr(get_settings().plugins, "extension2reader", wanted)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        tifffile.imwrite(tmp_path / "photos" / f"{index}.tif", np.zeros((4, 5), np.uint8))
    layer = viewer.add_labels(np.ones(SHAPE, np.uint8), name="cells", scale=(2, 0.5, 0.5))
    layer.save(str(tmp_path / "cells.ome.zarr"), plugin=PLUGIN)
    [photos] = viewer.open(tmp_path / "photos", plugin=None)
    assert photos.data.shape == (3, 4, 5)
    [cells] = viewer.open(tmp_path / "cells.ome.zarr", plugin=None)
    assert isinstance(cells, Labels)
    np.testing.assert_array_equal(cells.scale, (2, 0.5, 0.5))


def test_a_layer_of_unknown_place_is_not_given_one(viewer, tmp_path):
    layer = viewer.add_labels(np.zeros(SHAPE, np.uint8), name="cells")
    with pytest.raises(OutputError, match=r"position of layer 'cells' is not known.* save as TIFF"):
        layer.save(str(tmp_path / "cells.nii.gz"), plugin=PLUGIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "transform", [{"rotate": 10}, {"shear": [0.1, 0, 0]}, {"affine": np.diag([2.0, 1, 1, 1])}]
)
def test_a_place_that_tiff_cannot_hold_is_refused(viewer, tmp_path, transform):
    layer = viewer.add_labels(np.zeros(SHAPE, np.uint8), **transform)
    with pytest.raises(OutputError, match=next(iter(transform))):
        layer.save(str(tmp_path / "cells.tif"), plugin=PLUGIN)


def test_mixed_units_are_refused(viewer, tmp_path):
    layer = viewer.add_labels(np.zeros(SHAPE, np.uint8), units=("mm", "um", "um"))
    with pytest.raises(OutputError, match="no usable voxel size"):
        layer.save(str(tmp_path / "cells.tif"), plugin=PLUGIN)


def test_a_cropped_layer_is_refused(viewer, tmp_path):
    scan(tmp_path / "scan.nii")
    image = open_one(viewer, tmp_path / "scan.nii")
    layer = viewer.add_labels(np.zeros((5, 5, 4), np.uint8), metadata=dict(image.metadata))
    with pytest.raises(GridMismatchError, match=r"expected \(5, 6, 4\); found \(5, 5, 4\)"):
        layer.save(str(tmp_path / "organ.nii"), plugin=PLUGIN)


def test_a_slice_is_refused(viewer, tmp_path):
    layer = viewer.add_labels(np.zeros((5, 6), np.uint8))
    with pytest.raises(GridMismatchError, match="expected 3 dimensions of space"):
        layer.save(str(tmp_path / "organ.tif"), plugin=PLUGIN)


def test_a_series_is_refused_for_a_format_of_single_volumes(viewer, tmp_path):
    scan(tmp_path / "scan.nii.gz", (*SHAPE, 3))
    labels = labels_on(viewer, open_one(viewer, tmp_path / "scan.nii.gz"))
    with pytest.raises(OutputError, match=r"several time points; found \.nrrd. Write \.nii\.gz"):
        labels.save(str(tmp_path / "organ.seg.nrrd"), plugin=PLUGIN)
    assert not (tmp_path / "organ.seg.nrrd").exists()


@pytest.mark.parametrize(
    "name", ["liver.nii.gz", "liver.nii", "liver.img", "liver.mgz", "liver.mgh", "liver.nrrd",
             "liver.nhdr", "liver.tif", "liver.ome.tif", "liver.ome.zarr", "liver.seg.nrrd"]
)  # fmt: skip
@pytest.mark.parametrize("source", ["scan.nii", "cells.tif"])
@pytest.mark.filterwarnings("ignore:.*OME-Zarr keeps:napari_slmsam2.core.errors.SlmSam2Warning")
# nibabel does not close uncompressed MGH files.
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
def test_saved_labels_open_as_labels_whatever_their_name(viewer, tmp_path, source, name):
    if source == "scan.nii":
        scan(tmp_path / source)
    else:
        voxels = np.arange(120, dtype=np.uint8).reshape(SHAPE)
        tifffile.imwrite(tmp_path / source, voxels, imagej=True, metadata={"axes": "ZYX"})
    labels = labels_on(viewer, open_one(viewer, tmp_path / source))
    labels.save(str(tmp_path / name), plugin=PLUGIN)
    again = open_one(viewer, tmp_path / name)
    assert isinstance(again, Labels)
    assert np.count_nonzero(again.data == 2) == np.count_nonzero(labels.data == 2) > 0


def test_labels_of_64_bits_in_a_tiff_open_as_labels(viewer, tmp_path):
    data = np.zeros((3, 4, 5), np.uint64)
    data[1, 2, 3] = 2**40
    viewer.add_labels(data).save(str(tmp_path / "cells.tif"), plugin=PLUGIN)
    again = open_one(viewer, tmp_path / "cells.tif")
    assert isinstance(again, Labels)
    np.testing.assert_array_equal(again.data, data)


def test_freesurfer_tags_of_an_mgh_file_are_valid(viewer, tmp_path):
    """A tag is its number, the length of its text and the text, big-endian, after the footer."""
    scan(tmp_path / "scan.nii")
    labels = labels_on(viewer, open_one(viewer, tmp_path / "scan.nii"))
    labels.save(str(tmp_path / "organ.mgz"), plugin=PLUGIN)
    content = gzip.decompress((tmp_path / "organ.mgz").read_bytes())
    end = 284 + labels.data.size + 20
    tag, length = struct.unpack_from(">iq", content, end)
    text = content[end + 12 :]
    assert (tag, length) == (3, len(text))
    assert text.endswith(b"label map\0")


def test_another_scale_than_the_scan_is_said(viewer, tmp_path):
    scan(tmp_path / "scan.nii")
    labels = labels_on(viewer, open_one(viewer, tmp_path / "scan.nii"))
    labels.scale = (1, 1, 1)
    with pytest.warns(UserWarning, match=r"has scale \(1\.0, 1\.0, 1\.0\)"):
        labels.save(str(tmp_path / "organ.nii"), plugin=PLUGIN)
    assert_same_grid(tmp_path / "organ.nii", tmp_path / "scan.nii")


def test_the_finest_level_is_written(tmp_path):
    levels = [np.ones(SHAPE, np.uint8), np.zeros((2, 3, 2), np.uint8)]
    write_labels(str(tmp_path / "organ.tif"), levels, {"multiscale": True})
    assert tifffile.imread(tmp_path / "organ.tif").shape == SHAPE


# Samples.


def test_the_sample_opens_offline(viewer, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went online"))
    [image] = viewer.open_sample(PLUGIN, "scan")
    sample = make_sample()
    np.testing.assert_array_equal(image.data, sample.volume.data)
    np.testing.assert_allclose(image.scale, sample.volume.spacing)
    np.testing.assert_allclose(image.translate, sample.volume.affine[:3, 3])
    assert units(image) == ["mm"] * 3
    assert image.contrast_limits == [-160, 240]


def test_the_seeds_of_the_sample_lie_on_its_grid(window, tmp_path):
    image, seeds = window.open_sample(PLUGIN, "scan_with_seeds")
    assert isinstance(seeds, Labels)
    np.testing.assert_array_equal(seeds.extent.world, image.extent.world)
    truth = make_sample().labels
    for label in (1, 2):
        [index] = np.flatnonzero((seeds.data == label).any(axis=(0, 1)))
        np.testing.assert_array_equal(seeds.data[..., index] == label, truth[..., index] == label)
    seeds.save(str(tmp_path / "seeds.nii.gz"), plugin=PLUGIN)
    written = nib.load(tmp_path / "seeds.nii.gz")
    np.testing.assert_allclose(written.affine, make_sample().volume.affine)


def test_real_volumes_round_trip(viewer, shared, tmp_path):
    folders = sorted(f for f in (shared / "volumes").iterdir() if f.is_dir())
    if not folders:
        pytest.skip("no volumes")
    for folder in folders:
        image = open_one(viewer, folder / "image.nii.gz")
        labels = open_one(viewer, folder / "labels.nii.gz")
        assert isinstance(image, Image), folder.name
        assert isinstance(labels, Labels), folder.name
        np.testing.assert_allclose(labels.extent.world, image.extent.world, atol=1e-3)
        mine = labels_on(viewer, image)
        mine.save(str(tmp_path / "organ.nii.gz"), plugin=PLUGIN)
        assert_same_grid(tmp_path / "organ.nii.gz", folder / "image.nii.gz")
        labels.save(str(tmp_path / "labels.nii.gz"), plugin=PLUGIN)
        np.testing.assert_array_equal(
            nib.load(tmp_path / "labels.nii.gz").get_fdata(),
            nib.load(folder / "labels.nii.gz").get_fdata(),
        )
        viewer.layers.clear()


@pytest.mark.parametrize("knows_its_grid", [True, False])
def test_a_voxel_size_set_in_napari_is_saved_with_the_labels(window, tmp_path, knows_its_grid):
    """A TIFF without a voxel size, which the person gives to the layer."""
    path = tmp_path / "cells.tif"
    voxels = np.arange(4 * 6 * 5, dtype=np.uint16).reshape(4, 6, 5)
    tifffile.imwrite(path, voxels, photometric="minisblack")
    [image] = window.open(path, plugin=PLUGIN)
    if not knows_its_grid:  # as napari's own reader leaves it
        del image.metadata[METADATA_KEY]
    _, panel = open_panel(window)
    image.scale, image.units = (2.0, 0.5, 0.5), ("µm",) * 3
    source, grid = describe_image(image, panel.workspace.view)
    save_labels(tmp_path / "saved.nii.gz", panel.workspace.labels.data, source, grid)
    written = nib.load(tmp_path / "saved.nii.gz")
    assert sorted(written.header.get_zooms()) == pytest.approx([0.5, 0.5, 2.0])
    assert written.header.get_xyzt_units()[0] == "micron"


def test_the_panel_saves_the_labels_of_the_sample_on_its_grid(window, tmp_path):
    """A layer that knows its grid is saved on it, in the axis order of the grid."""
    [image] = window.open_sample(PLUGIN, "scan")
    dock, panel = open_panel(window)
    labels = panel.workspace.labels
    labels.data[3, 4, 5] = 7
    source, grid = describe_image(image, panel.workspace.view)
    save_labels(tmp_path / "saved.nii.gz", labels.data, source, grid)
    written = nib.load(tmp_path / "saved.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels.data)
    np.testing.assert_allclose(written.affine, make_sample().volume.affine)
    window.window.remove_dock_widget(dock)
