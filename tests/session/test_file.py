"""Sessions in files: they come back, and they can be done again bit for bit."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_slmsam2.core.config import ModelConfig, PropagationConfig
from napari_slmsam2.core.errors import CheckpointError, OutputError, SessionFileError
from napari_slmsam2.core.events import Finished, FinishReason
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.session.file import (
    ImageSource,
    describe_session,
    load_session,
    open_image,
    replay,
    save_session,
)
from napari_slmsam2.session.session import SegmentationSession

SHAPE = (14, 30, 26)
TINY = {
    "image_size": 64,
    "embed_dim": 8,
    "stages": (1, 1, 2, 1),
    "global_attention_blocks": (3,),
    "short_memory_slices": 1,
    "attention_layers": 1,
    "feedforward_dim": 32,
    "model_dim": 64,
    "memory_dim": 16,
    "decoder_mlp_dim": 32,
    "iou_head_dim": 32,
    "fuser_layers": 1,
}


def _scene() -> tuple[np.ndarray, np.ndarray]:
    """Two balls in noise, and their labels."""
    rng = np.random.default_rng(3)
    z, y, x = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    labels = np.zeros(SHAPE, np.uint8)
    labels[((z - 6) / 6) ** 2 + ((y - 10) / 7) ** 2 + ((x - 9) / 6) ** 2 < 1] = 1
    labels[((z - 7) / 6) ** 2 + ((y - 19) / 6) ** 2 + ((x - 16) / 7) ** 2 < 1] = 2
    image = 100 + 60 * (labels == 1) + 110 * (labels == 2) + rng.normal(0, 6, SHAPE)
    return image.astype(np.float32), labels


IMAGE, TRUTH = _scene()


@pytest.fixture
def volume() -> Volume:
    return Volume(IMAGE, 0, (3.0, 1.0, 1.0), "mm")


@pytest.fixture(scope="module")
def compact(tmp_path_factory):
    """A small network of the kind of the default model, of random weights, in a file."""
    import torch
    from tests.labelled_files import write_base

    from napari_slmsam2.engine.loading import load_network
    from napari_slmsam2.engine.weights.checkpoints import save_weights

    path = write_base(tmp_path_factory.mktemp("weights") / "compact.safetensors")
    network = load_network(path).network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    save_weights(path, network.state_dict(), {"config": network.config.to_dict()})
    return path


def seed(session: SegmentationSession, label: int, index: int) -> None:
    session.add_prompt(SlicePrompt.from_mask(label, index, TRUTH[index] == label))


def run(session: SegmentationSession, *, steps: int | None = None, **options) -> None:
    """Propagate, for some steps only."""
    asked = iter(range(10**6))
    stop = None if steps is None else lambda: next(asked) >= steps
    *_, last = session.propagate(should_stop=stop, **options)
    expected = FinishReason.COMPLETED if steps is None else FinishReason.STOPPED
    assert last == Finished(expected)


def check_replay(session: SegmentationSession, path, **options) -> SegmentationSession:
    """Save, load, do it again: everything must come out as it was."""
    save_session(session, path)
    before = session.labels.copy()
    assert before.any()
    again = load_session(path, image=session.volume, **options)
    assert again.labels.dtype == before.dtype
    np.testing.assert_array_equal(again.labels, before)
    assert again.prompts.labels == session.prompts.labels
    assert [p.label for p in again.prompts] == [p.label for p in session.prompts]
    assert dict(again.prompts.extents) == dict(session.prompts.extents)
    assert again.config == session.config
    assert again.window == session.window
    again.labels[...] = 0
    again = load_session(path, image=session.volume, **options)
    for _ in replay(again):
        pass
    np.testing.assert_array_equal(again.labels, before)
    assert again.labels.dtype == before.dtype
    assert again.dirty == session.dirty
    assert [r.digests for r in again.runs] == [r.digests for r in session.runs]
    assert [r.steps for r in again.runs] == [r.steps for r in session.runs]
    return again


@pytest.mark.parametrize("model", ["flow", "interpolation"])
def test_two_labels_with_a_correction_in_its_gaps(tmp_path, volume, model):
    session = SegmentationSession(volume, model=model)
    for label in (1, 2):
        seed(session, label, 3)
        seed(session, label, 11)
    session.set_extent(1, 2, 11)
    run(session)
    first = session.labels.copy()
    seed(session, 1, 7)
    run(session, gaps_only=True)
    assert (session.labels != first).any()
    again = check_replay(session, tmp_path / "a.slmsam2")
    assert again.quality == session.quality
    assert again.suggestions() == session.suggestions()


def test_what_was_undone_and_redrawn_and_painted(tmp_path, volume, compact):
    session = SegmentationSession(volume, model=compact)
    seed(session, 1, 6)
    run(session)
    seed(session, 2, 8)
    session.add_prompt(SlicePrompt.absent_at(1, 12))
    run(session, labels=[2])
    session.undo()
    session.add_prompt(SlicePrompt.from_mask(2, 8, np.roll(TRUTH[8] == 2, 2, axis=0)))
    session.add_prompt(SlicePrompt.from_mask(1, 8, TRUTH[8] == 1))
    session.remove_prompt(1, 8)
    session.labels[5, :3, :3] = 2
    run(session)
    session.labels[4, 20:, 20:] = 7
    assert len(session.runs) == 2
    check_replay(session, tmp_path / "a.slmsam2")


def test_a_seed_taken_away_between_runs_leaves_the_memory_as_it_was(tmp_path, volume, compact):
    """Label 1 is in memory where label 2 runs, but for the slice that was touched."""
    session = SegmentationSession(volume, model=compact)
    seed(session, 1, 6)
    run(session)
    session.add_prompt(SlicePrompt.absent_at(1, 8))
    session.remove_prompt(1, 8)
    seed(session, 2, 7)
    run(session, labels=[2])
    check_replay(session, tmp_path / "a.slmsam2")


def test_stopped_and_resumed_runs(tmp_path, volume, compact):
    session = SegmentationSession(volume, model=compact)
    seed(session, 1, 6)
    run(session, steps=4)
    again = check_replay(session, tmp_path / "stopped.slmsam2")
    whole = SegmentationSession(volume, model=compact)
    seed(whole, 1, 6)
    run(whole)
    for _ in again.resume():
        pass
    np.testing.assert_array_equal(again.labels, whole.labels)
    for _ in session.resume():
        pass
    seed(session, 2, 5)
    run(session, write_range=(4, 9))
    check_replay(session, tmp_path / "resumed.slmsam2")


def test_labels_to_start_from_and_a_wide_label(tmp_path, volume):
    start = np.zeros(SHAPE, np.uint16)
    start[2:5, :6, :6] = 3
    session = SegmentationSession(
        volume, labels=start, config=PropagationConfig(overlap="keep", stop_after_absent=1)
    )
    session.add_prompt(SlicePrompt.from_mask(40_000, 6, TRUTH[6] == 1))
    run(session)
    assert (session.labels == 3).any()
    check_replay(session, tmp_path / "a.slmsam2")


def test_a_session_before_its_first_run(tmp_path, volume):
    session = SegmentationSession(volume)
    seed(session, 1, 6)
    again = check_replay(session, tmp_path / "a.slmsam2")
    assert not again.runs


def test_all_kinds_of_seeds_come_back(tmp_path, volume):
    session = SegmentationSession(volume)
    points = SlicePrompt.from_points(1, 4, [(10.25, 9.1)], [1], box=(2.0, 3.0, 17.5, 16.0))
    session.add_prompt(points.refine([(1, 1), (2, 2)], [0, 0]))
    session.add_prompt(SlicePrompt.absent_at(1, 13))
    seed(session, 2, 6)
    save_session(session, tmp_path / "a.slmsam2")
    again = load_session(tmp_path / "a.slmsam2", image=volume)
    found = again.prompts.get(1, 4)
    assert found is not None
    assert found.previous is not None
    np.testing.assert_array_equal(found.points, [(10.25, 9.1), (1, 1), (2, 2)])
    np.testing.assert_array_equal(found.point_labels, [1, 0, 0])
    np.testing.assert_array_equal(found.previous.points, [(10.25, 9.1)])
    assert found.box == (2.0, 3.0, 17.5, 16.0)
    assert again.prompts.get(1, 13).kind.value == "absent"
    np.testing.assert_array_equal(again.prompts.get(2, 6).mask, TRUTH[6] == 2)


def test_clicks_come_back_with_what_was_found_for_them(tmp_path, volume):
    session = SegmentationSession(volume, model="flow")
    click = SlicePrompt.from_points(1, 6, [(10, 9)])
    session.add_prompt(session.answer(click.refine([(25, 3)], [0])))
    session.add_prompt(SlicePrompt.from_box(2, 6, (13, 9, 25, 23)))
    seed(session, 1, 9)
    run(session)
    again = check_replay(session, tmp_path / "a.slmsam2")
    answered, opened = again.prompts.get(1, 6), again.prompts.get(2, 6)
    np.testing.assert_array_equal(answered.mask, session.prompts.get(1, 6).mask)
    assert not answered.is_open
    assert opened.is_open
    assert opened.box == (13.0, 9.0, 25.0, 23.0)
    assert (session.labels[6] == 2).any(), "the run has found it"


def test_lassos_and_scribbles_come_back_and_replay(tmp_path, volume):
    session = SegmentationSession(volume, model="flow")
    corners = [(13, 9), (13, 23), (25, 23), (25, 9)]
    session.add_prompt(session.answer(SlicePrompt.from_lasso(2, 6, corners)))
    scribble = SlicePrompt.from_scribble(1, 6, [(10, 8), (10, 9), (25, 3)], [1, 1, 0])
    session.add_prompt(scribble.refine([(11, 9)], [1]))
    run(session)
    again = check_replay(session, tmp_path / "a.slmsam2")
    lasso, scribble = again.prompts.get(2, 6), again.prompts.get(1, 6)
    np.testing.assert_array_equal(lasso.lasso, corners)
    np.testing.assert_array_equal(lasso.mask, session.prompts.get(2, 6).mask)
    assert scribble.is_open
    np.testing.assert_array_equal(scribble.scribble, [(10, 8), (10, 9), (25, 3)])
    np.testing.assert_array_equal(scribble.scribble_labels, [1, 1, 0])
    np.testing.assert_array_equal(scribble.points, [(11, 9)])
    assert scribble.previous.scribble is not None
    assert not len(scribble.previous.points)
    assert (session.labels[6] == 1).any(), "the run has found it"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny random SLM-SAM 2 network in a file."""
    import torch

    from napari_slmsam2.engine.sam2.network import SliceNetwork
    from napari_slmsam2.engine.weights.checkpoints import save_weights

    config = ModelConfig(**TINY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        network = SliceNetwork(config)
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, network.state_dict(), {"config": config.to_dict()})
    return path


def test_a_network(tmp_path, volume, weights):
    session = SegmentationSession(volume, model=weights, device="cpu")
    session.add_prompt(SlicePrompt.from_points(1, 5, [(10, 9)]))
    seed(session, 2, 4)
    seed(session, 2, 9)
    run(session)
    session.add_prompt(SlicePrompt.from_mask(1, 8, TRUTH[8] == 1))
    run(session, gaps_only=True)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(weights.read_bytes())
    check_replay(session, tmp_path / "a.slmsam2", model=moved)


def test_other_weights_than_then(tmp_path, volume, weights):
    from napari_slmsam2.engine.weights.checkpoints import load_state, save_weights

    session = SegmentationSession(volume, model=weights, device="cpu")
    seed(session, 1, 6)
    run(session)
    save_session(session, tmp_path / "a.slmsam2")
    state = load_state(weights)
    state["sam_mask_decoder.iou_token.weight"] += 1e-6
    other = tmp_path / "other.safetensors"
    save_weights(other, state, {"config": ModelConfig(**TINY).to_dict()})
    again = load_session(tmp_path / "a.slmsam2", image=volume, model=other)
    with pytest.raises(CheckpointError, match="not the one of the recorded run"):
        list(replay(again))


def test_another_model_for_the_second_run(tmp_path, volume):
    session = SegmentationSession(volume, model="flow")
    seed(session, 1, 3)
    seed(session, 1, 10)
    run(session)
    session.use_model("interpolation")
    seed(session, 1, 6)
    run(session, gaps_only=True)
    assert [record.model for record in session.runs] == ["flow", "interpolation"]
    check_replay(session, tmp_path / "a.slmsam2")


def test_the_image_is_found_and_verified(tmp_path, nifti_scene):
    folder = tmp_path / "study"
    image, session = nifti_scene(folder)
    save_session(session, folder / "a.slmsam2", image=ImageSource(image))
    assert open_image(folder / "a.slmsam2").path == image
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert open_image(moved / "a.slmsam2").path.resolve() == (moved / "image.nii").resolve()
    np.testing.assert_array_equal(load_session(moved / "a.slmsam2").labels, session.labels)
    (moved / "image.nii").rename(tmp_path / "there.nii")
    with pytest.raises(SessionFileError, match="its image was not found"):
        open_image(moved / "a.slmsam2")
    assert open_image(moved / "a.slmsam2", tmp_path / "there.nii").volume.shape == SHAPE
    data = bytearray((tmp_path / "there.nii").read_bytes())
    data[-1] ^= 1
    (tmp_path / "there.nii").write_bytes(data)
    with pytest.raises(SessionFileError, match=r"there\.nii: is not the image of the session"):
        open_image(moved / "a.slmsam2", tmp_path / "there.nii")


@pytest.fixture
def nifti_scene():
    import nibabel

    from napari_slmsam2.io import read_image

    def make(folder):
        folder.mkdir()
        path = folder / "image.nii"
        nibabel.Nifti1Image(IMAGE, np.eye(4)).to_filename(path)
        session = SegmentationSession(read_image(path, axis=0).volume)
        seed(session, 1, 6)
        run(session)
        return path, session

    return make


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    session = SegmentationSession(Volume(IMAGE, 0))
    seed(session, 1, 6)
    run(session)
    path = tmp_path_factory.mktemp("saved") / "a.slmsam2"
    save_session(session, path)
    return path


def change(saved, path, **members: bytes | None):
    """A copy of a session file with other members."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = members.get(name.split(".")[0].replace("/", "_"), source.read(name))
            if content is not None:
                target.writestr(name, content)
    return path


def with_json(saved, path, **values):
    with zipfile.ZipFile(saved) as file:
        content = json.loads(file.read("session.json"))
    return change(saved, path, session=json.dumps({**content, **values}).encode())


def npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code in the file was run",))


def test_damaged_and_foreign_files(tmp_path, saved, volume):
    bad = tmp_path / "bad.slmsam2"
    objects = np.empty(1, object)
    objects[0] = _Bomb()
    huge = npy(np.zeros(3, np.uint8)).replace(b"(3,)", b"(9" + b"9" * 12 + b",)"[:2])
    cases = {
        "not there": lambda: bad.unlink(missing_ok=True),
        "empty": lambda: bad.write_bytes(b""),
        "text": lambda: bad.write_text("seeds"),
        "truncated": lambda: bad.write_bytes(saved.read_bytes()[:-200]),
        "pickle": lambda: bad.write_bytes(pickle.dumps(_Bomb())),
        "another zip": lambda: zipfile.ZipFile(bad, "w").close(),
        "no labels": lambda: change(saved, bad, labels=None),
        "no json": lambda: change(saved, bad, session=None),
        "broken json": lambda: change(saved, bad, session=b"{"),
        "a list": lambda: change(saved, bad, session=b"[]"),
        "foreign json": lambda: with_json(saved, bad, format="other"),
        "newer": lambda: with_json(saved, bad, format_version=99),
        "no runs": lambda: with_json(saved, bad, runs=[{}]),
        "no such prompt": lambda: with_json(saved, bad, prompt_sets=[]),
        "bad config": lambda: with_json(saved, bad, config={"merge": "magic"}),
        "bad window": lambda: with_json(saved, bad, window={"low": 2, "high": 1, "source": ""}),
        "objects": lambda: change(saved, bad, labels=npy(objects, allow_pickle=True)),
        "another shape": lambda: change(saved, bad, labels=npy(np.zeros((2, 2, 2), np.uint8))),
        "floats": lambda: change(saved, bad, labels=npy(np.zeros(SHAPE))),
        "negative": lambda: change(saved, bad, labels=npy(np.full(SHAPE, -1))),
        "cut array": lambda: change(saved, bad, labels=npy(np.zeros(SHAPE, np.uint8))[:-5]),
        "long array": lambda: change(saved, bad, labels=npy(np.zeros(SHAPE, np.uint8)) + b"xx"),
        "huge header": lambda: change(saved, bad, labels=huge),
    }
    for name, make in cases.items():
        make()
        with pytest.raises(SessionFileError, match=r"bad\.slmsam2") as caught:
            load_session(bad, image=volume)
        assert "Traceback" not in str(caught.value), name
    with_json(saved, bad, format_version=99)
    with pytest.raises(SessionFileError, match=r"newer version.*Update"):
        load_session(bad, image=volume)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), value=st.integers(0, 255))
def test_one_wrong_byte_is_an_error_or_harmless(tmp_path, saved, place, value):
    data = bytearray(saved.read_bytes())
    data[int(place * (len(data) - 1))] = value
    bad = tmp_path / "byte.slmsam2"
    bad.write_bytes(data)
    good = load_session(saved, image=Volume(IMAGE, 0))
    try:
        session = load_session(bad, image=Volume(IMAGE, 0))
    except SessionFileError:
        return
    np.testing.assert_array_equal(session.labels, good.labels)


def test_a_header_that_no_parser_can_read_is_damage(tmp_path, saved):
    bad = tmp_path / "header.slmsam2"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(b")", b" ", 1) if name.endswith(".npy") else data)
    with pytest.raises(SessionFileError, match="is damaged"):
        load_session(bad, image=Volume(IMAGE, 0))


def test_the_image_must_have_the_shape(saved):
    with pytest.raises(SessionFileError, match="expected shape"):
        load_session(saved, image=Volume(IMAGE[1:], 0))


def test_nothing_is_overwritten_unasked(tmp_path, volume):
    session = SegmentationSession(volume)
    path = tmp_path / "a.slmsam2"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        save_session(session, path)
    assert path.read_text() == "mine"
    save_session(session, path, overwrite=True)
    assert zipfile.is_zipfile(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.slmsam2"]


def test_a_file_is_described_without_its_image(tmp_path, volume):
    session = SegmentationSession(volume)
    seed(session, 1, 6)
    seed(session, 2, 7)
    session.add_prompt(SlicePrompt.absent_at(2, 0))
    path = save_session(session, tmp_path / "a.slmsam2", note={"layer": "mine"})
    info = describe_session(path)
    assert (info.n_seeds, info.labels, info.note) == (3, (1, 2), {"layer": "mine"})
    assert info.created.tzinfo is not None
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SessionFileError):
        describe_session(path)


def test_scores_come_back_and_give_way_to_those_of_the_next_run(volume, tmp_path):
    session = SegmentationSession(volume, model="flow", device="cpu")
    for label in (1, 2):
        session.add_prompt(SlicePrompt.from_mask(label, 6, TRUTH[6] == label))
    list(session.propagate())
    again = load_session(save_session(session, tmp_path / "a.slmsam2"), image=volume)
    assert again.quality == session.quality
    assert again.suggestions() == session.suggestions()
    again.add_prompt(SlicePrompt.from_mask(1, 9, TRUTH[9] == 1))
    assert 9 not in again.quality[1]
    list(again.propagate(gaps_only=True))
    assert again.quality[1][7].agreement is not None, "between two seeds there are two sweeps"
    assert again.quality[2] == session.quality[2]


@pytest.mark.parametrize("array", [np.zeros((2, 3)), np.zeros((2, 9), np.int64)])
def test_scores_that_are_damaged_are_refused(volume, tmp_path, array):
    session = SegmentationSession(volume, model="flow", device="cpu")
    session.add_prompt(SlicePrompt.from_mask(1, 6, TRUTH[6] == 1))
    path = save_session(session, tmp_path / "a.slmsam2")
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            if name != "scores.npy":
                file.writestr(name, content)
        with file.open("scores.npy", "w") as member:
            np.lib.format.write_array(member, array)
    with pytest.raises(SessionFileError, match="the scores are"):
        load_session(path, image=volume)
