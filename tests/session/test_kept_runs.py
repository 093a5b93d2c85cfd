"""A run that was stopped continues from a file, with the result of an unbroken run."""

from __future__ import annotations

import numpy as np
import pytest

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import SessionFileError
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.session.file import load_session, save_session
from napari_slmsam2.session.session import SegmentationSession

from ..random_weights import tiny_file


@pytest.fixture(scope="module")
def scan() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x, y, z = np.meshgrid(*map(np.arange, (30, 26, 12)), indexing="ij")
    labels = np.zeros(x.shape, np.uint8)
    labels[((z - 6) / 5) ** 2 + ((x - 10) / 7) ** 2 + ((y - 9) / 6) ** 2 < 1] = 1
    labels[((z - 5) / 5) ** 2 + ((x - 20) / 6) ** 2 + ((y - 17) / 7) ** 2 < 1] = 2
    image = 100 + 300 * (labels == 1) + 600 * (labels == 2) + rng.normal(0, 20, x.shape)
    return image.astype(np.float32), labels


def new_session(scan, model) -> SegmentationSession:
    image, labels = scan
    session = SegmentationSession(
        Volume(image, axis=2, spacing=(0.8, 0.9, 4.0), unit="mm"),
        model=model,
        device="cpu",
        config=PropagationConfig(precision="float32", batch_size=1),
        window=IntensityWindow.from_limits(0, 900),
    )
    for label, index in ((1, 3), (1, 8), (2, 5)):
        session.add_prompt(SlicePrompt.from_mask(label, index, labels[..., index] == label))
    return session


@pytest.mark.parametrize("model", ["flow", "interpolation", "compact", "network"])
def test_stopped_anywhere_and_continued_from_a_file(scan, model, tmp_path, tmp_path_factory):
    if model == "network":
        model = tiny_file(tmp_path / "tiny.safetensors")
    whole = new_session(scan, model)
    list(whole.propagate())
    path, session = tmp_path / "run.slmsam2", new_session(scan, model)
    pieces, calls = 0, 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls % 5 == 0

    list(session.propagate(should_stop=stop))
    while session.paused_state is not None:
        pieces += 1
        save_session(session, path, with_state=True, overwrite=True)
        session = load_session(path, image=session.volume, with_state=True)
        list(session.resume(should_stop=stop))
    assert pieces >= 3
    np.testing.assert_array_equal(session.labels, whole.labels)
    assert session.quality == whole.quality
    assert session.runs[-1].finished
    assert session.runs[-1].digests == whole.runs[-1].digests
    for index in range(12):
        ours, theirs = session.logits_on_slice(index), whole.logits_on_slice(index)
        assert ours.keys() == theirs.keys()
        for label, logits in ours.items():
            np.testing.assert_array_equal(logits, theirs[label])


def test_the_state_holds_data_only(scan, tmp_path):
    """A file that names other classes than those of data is refused."""
    import json
    import zipfile

    session, path = new_session(scan, "flow"), tmp_path / "run.slmsam2"
    list(session.propagate(should_stop=lambda: session.labels.any(axis=(0, 1)).sum() > 4))
    save_session(session, path, with_state=True)
    evil = tmp_path / "evil.slmsam2"
    for module, name in (
        ("os", "system"),
        ("napari_slmsam2.engine.weights.download", "Path"),
        ("napari_slmsam2.session.session", "SegmentationSession"),
    ):
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(evil, "w") as target:
            for member in source.namelist():
                data = source.read(member)
                if member == "session.json":
                    content = json.loads(data)
                    root = content["state"]["root"]
                    content["state"]["nodes"][root]["class"] = [module, name]
                    data = json.dumps(content).encode()
                target.writestr(member, data)
        with pytest.raises(SessionFileError, match="is damaged"):
            load_session(evil, image=session.volume, with_state=True)


def test_a_run_of_another_version_is_not_continued(scan, tmp_path):
    """Its visits had another order; seeds, settings and labels are read as ever."""
    import json
    import zipfile

    session, path = new_session(scan, "flow"), tmp_path / "run.slmsam2"
    list(session.propagate(should_stop=lambda: session.labels.any(axis=(0, 1)).sum() > 4))
    save_session(session, path, with_state=True)
    older = tmp_path / "older.slmsam2"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(older, "w") as target:
        for member in source.namelist():
            data = source.read(member)
            if member == "session.json":
                content = json.loads(data)
                del content["state"]["version"]
                data = json.dumps(content).encode()
            target.writestr(member, data)
    with pytest.raises(SessionFileError, match="interrupted run of another version"):
        load_session(older, image=session.volume, with_state=True)
    again = load_session(older, image=session.volume)
    np.testing.assert_array_equal(again.labels, session.labels)
    assert again.prompts.prompts.keys() == session.prompts.prompts.keys()
