"""Adapting: training, evaluation on the held-out part, stopping at any time, exact resume."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tests.labelled_files import (
    AFFINE,
    SHAPE,
    as_improved,
    keep_slices,
    make_image,
    make_labels,
    write,
    write_base,
    write_pair,
)

from napari_slmsam2.core.errors import (
    CheckpointError,
    ConfigError,
    DeviceMemoryError,
    GridMismatchError,
    OutputError,
    VolumeError,
)
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.loading import load_network, make_segmenter
from napari_slmsam2.training.adapt import backends
from napari_slmsam2.training.adapt.adaptation import Adaptation
from napari_slmsam2.training.adapt.backends import backend_of
from napari_slmsam2.training.adapt.estimate import plan_schedule, plan_training
from napari_slmsam2.training.adapt.measurement import Measurement, profile_steps
from napari_slmsam2.training.data.labelled_scan import LabelledScan, check_scans, read_pair
from napari_slmsam2.training.data.pseudo_stack import EMPTY, make_pseudo_stack
from napari_slmsam2.training.data.split import split_data
from napari_slmsam2.training.data.training_clips import ClipCutter
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.recipes import RECIPES, AdaptRecipe, get_recipe

CPU = torch.device("cpu")
SHORT = get_recipe("quick").replace(
    minutes=30.0, clips=8, steps=6, fewest_steps=1, evaluations=3, batch_size=4
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_network(write_base(tmp_path_factory.mktemp("base") / "base.safetensors"))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return [read_pair(*write_pair(folder, seed)) for seed in range(3)]


def scan_of(labels, **options):
    volume = Volume(make_image(make_labels(0), 0), axis=2, spacing=(1.0, 1.0, 2.0), unit="mm")
    return LabelledScan.of(volume, labels, **options)


def prepared(scans, base, recipe=SHORT, **options):
    job = Adaptation(scans, base, recipe, device="cpu", **options)
    job.prepare()
    return job


def test_training_improves_the_held_out_dice_and_writes_one_file(scans, base, tmp_path):
    recipe = SHORT.replace(
        steps=64, clips=32, batch_size=8, evaluations=4, learning_rate=5e-3, l2_sp=0.0
    )
    job = prepared(scans[:2], base, recipe)
    progress = []
    report = job.run(progress.append)
    assert report.held_out == "one end of every object"
    assert report.improved
    # The base model is close to the truth: the error falls to less than two thirds.
    assert 1 - report.after.dice < (1 - report.before.dice) * 2 / 3
    assert report.after.mean("op_voxels") <= report.before.mean("op_voxels")
    dice = [p.evaluation.dice for p in progress if p.evaluation]
    assert dice == [report.before.dice, *(p.dice for p in report.curve)]
    path = job.save(tmp_path / "models" / "mine.safetensors", report)
    assert [f.name for f in path.parent.iterdir()] == ["mine.safetensors"]
    loaded = load_network(path)
    again = job._backend.evaluate(loaded.network)
    assert again.dice == pytest.approx(report.after.dice, abs=0.01)
    assert make_segmenter(path, device="cpu").sha256 == loaded.sha256
    with safe_open(path, framework="np") as file:
        header = str(file.metadata())
    facts = job.metadata(report)["adapted"]
    assert facts["base"]["sha256"] == base.sha256
    assert facts["data"][0]["image_sha256"] != facts["data"][1]["image_sha256"]
    for fact in (base.sha256, facts["data"][1]["labels_sha256"], "CC0-1.0", "quick"):
        assert fact in header
    assert "image0" not in header
    assert str(tmp_path) not in header


def test_a_stopped_run_continues_with_the_result_of_an_unbroken_one(scans, base, tmp_path):
    whole = prepared(scans[:1], base)
    unbroken = whole.run()
    checkpoint = tmp_path / "checkpoint.pt"
    first = prepared(scans[:1], base, checkpoint=checkpoint)
    seen = []
    stopped = first.run(seen.append, lambda: any(p.step >= 3 for p in seen))
    assert stopped.stopped == "cancelled"
    assert stopped.steps == 3
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint.pt"]
    second = prepared(scans[:1], base, checkpoint=checkpoint)
    report = second.run()
    assert report.steps == unbroken.steps == 6
    assert report.curve == unbroken.curve
    for name, value in whole._run.trainer.averaged.state_dict().items():
        torch.testing.assert_close(
            value, second._run.trainer.averaged.state_dict()[name], rtol=0, atol=0
        )
    with pytest.raises(CheckpointError, match="another adaptation"):
        prepared(scans[1:2], base, checkpoint=checkpoint)
    checkpoint.write_bytes(b"PK\3\4 not one")
    with pytest.raises(CheckpointError, match="not the checkpoint"):
        prepared(scans[:1], base, checkpoint=checkpoint)


def test_held_out_labels_do_not_change_the_clips(scans, base):
    """Other labels on the held-out part, and only there, give the same clips."""
    network = base.network
    labels = scans[0].labels
    for seeds, slices in ((False, None), (True, {1: (5, 7, 9), 2: (4, 6, 8, 10)})):
        given = labels if slices is None else keep_slices(labels, slices)
        data_split = split_data([scan_of(given, seeds=seeds)], 0)
        assert {
            label
            for held_out_volume in data_split.held_out_volumes
            for label in held_out_volume.seeds
        } == {1, 2}
        other = given.copy()
        offset = (
            SHAPE[2] - data_split.held_out_volumes[0].volume.n_slices if slices is None else None
        )
        for label, (first, last) in data_split.held_out_volumes[0].scored.items():
            shift = (
                0
                if offset is None
                else _first_slice(data_split.held_out_volumes[0], scan_of(given))
            )
            part = other[..., first + shift : last + shift + 1]
            part[part == label] = 0
            if slices is None:
                part[:3, :3] = label
        changed = [
            dataclasses.replace(training_object, scan=scan_of(other, seeds=seeds))
            for training_object in data_split.training_objects
        ]
        one = cut(data_split, network, 16)
        two = cut(dataclasses.replace(data_split, training_objects=tuple(changed)), network, 16)
        for name in ("distances", "priors", "present", "seed_distances"):
            np.testing.assert_array_equal(one[name], two[name])


def cut(data_split, network, most):
    cutter = ClipCutter(data_split, network, 0)
    cutter.cut(most)
    return cutter.clips(most)


def _first_slice(held_out_volume, scan):
    """The first slice of a held-out volume in its scan."""
    first = held_out_volume.volume.take(0)
    return next(i for i in range(scan.volume.n_slices) if (scan.volume.take(i) == first).all())


@pytest.mark.parametrize(
    ("n_volumes", "words"), [(1, "one end"), (2, "one end"), (3, "the last volume")]
)
def test_what_is_held_out_depends_on_what_there_is(scans, n_volumes, words):
    data_split = split_data(scans[:n_volumes], 0)
    assert words in data_split.held_out
    assert len(data_split.held_out_volumes) == (1 if n_volumes == 3 else n_volumes)
    trained = {id(training_object.scan) for training_object in data_split.training_objects}
    assert len(trained) == (2 if n_volumes == 3 else n_volumes)


def test_many_objects_hold_some_of_themselves_out():
    labels = np.zeros(SHAPE, np.uint8)
    for k in range(8):
        labels[5 * k : 5 * k + 4, 3:12, 4:12] = k + 1
    data_split = split_data([scan_of(labels)], 0)
    evaluated = {
        label for held_out_volume in data_split.held_out_volumes for label in held_out_volume.seeds
    }
    assert len(evaluated) == 2
    assert evaluated | {
        training_object.label for training_object in data_split.training_objects
    } == set(range(1, 9))
    assert not evaluated & {
        training_object.label for training_object in data_split.training_objects
    }


def test_few_annotated_slices_are_continued(scans, base):
    labels = keep_slices(scans[0].labels, {1: (7,)})
    scan = scan_of(labels, seeds=True)
    data_split = split_data([scan], 0)
    assert "pseudo-stacks" in data_split.held_out
    recipe = get_recipe("this-volume").replace(
        minutes=30.0, clips=8, steps=2, fewest_steps=1, evaluations=1, batch_size=4
    )
    report = prepared([scan], base, recipe).run()
    assert report.steps == 2
    assert len(report.before.structures) == 4


def test_confident_slices_are_trained_on_like_annotated_ones(scans):
    labels = keep_slices(scans[0].labels, {1: (6, 7, 8, 9)})
    alone = split_data([scan_of(keep_slices(labels, {1: (7,)}), seeds=True)], 0)
    data_split = split_data([scan_of(labels, seeds=True, confident={1: (6, 8, 9)})], 0)
    assert len(alone.training_objects) == 1
    assert {(x.first, x.last) for x in data_split.training_objects} == {(7, 7), (6, 9)}


def test_slices_propagated_from_the_held_out_slice_are_left_out(scans):
    labels = keep_slices(scans[0].labels, {1: (4, 5, 6, 7, 8, 9, 10)})
    confident = {1: (5, 6, 8, 9)}  # 4, 7 and 10 are annotated
    data_split = split_data([scan_of(labels, seeds=True, confident=confident)], 0)
    assert (
        data_split.held_out_volumes[0].scored[1][0] == data_split.held_out_volumes[0].scored[1][1]
    )
    assert {(x.first, x.last) for x in data_split.training_objects} == {(4, 4), (10, 10)}


@pytest.mark.parametrize("seed", range(3))
def test_a_made_stack_holds_its_slice_and_knows_its_ends(seed):
    labels = make_labels(0)
    image = (make_image(labels, 0)[..., 7] / 300).astype(np.float32)
    mask = labels[..., 7] == 1
    stack = make_pseudo_stack(np.random.default_rng(seed), image, mask, (2.0, 1.0, 1.0))
    again = make_pseudo_stack(np.random.default_rng(seed), image, mask, (2.0, 1.0, 1.0))
    np.testing.assert_array_equal(stack.image, again.image)
    there = [i for i, m in enumerate(stack.mask) if m.sum() == mask.sum()]
    assert any((stack.image[i][stack.mask[i]] == image[mask]).all() for i in there)
    present = np.flatnonzero(stack.mask.any((1, 2)))
    assert np.ptp(present) + 1 == len(present)
    behind = len(stack.mask) - 1 - present[-1]
    assert behind in (0, EMPTY) or present[0] in (0, EMPTY)
    inside, outside = stack.image[stack.mask].mean(), stack.image[~stack.mask].mean()
    assert inside > outside + 0.2
    assert stack.image[present[0] - 1].max() < 1.0 or present[0] == 0


@pytest.mark.parametrize(
    ("trained", "moves"), [("heads", "heads.0.weight"), ("memory+heads", "short_out.weight")]
)
def test_parts_that_are_not_trained_stay(scans, base, trained, moves):
    job = prepared(scans[:1], base, SHORT.replace(trained=trained, steps=2, l2_sp=0.0))
    job.run()
    before = base.network.state_dict()
    after = job._run.trainer.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert moves in changed
    assert not any(name.startswith(("down1", "up1", "image_stem")) for name in changed)
    assert ("short_out.weight" in changed) == (trained == "memory+heads")


@pytest.mark.parametrize(
    ("labels_are", "known"), [("auto", (1, 2)), ("structures", (1, 2)), ("objects", ())]
)
def test_structures_get_class_embeddings(scans, base, labels_are, known):
    recipe = SHORT.replace(labels_are=labels_are)
    backend = backend_of(base, recipe, split_data(scans[:2], 0), DistributedContext())
    assert backend.network.config.structures == known


def test_one_label_and_annotated_slices_get_no_class_embeddings(scans, base):
    alone = dataclasses.replace(scans[0], areas={1: scans[0].areas[1]})
    seeds = dataclasses.replace(scans[0], seeds=True)
    recipe = SHORT.replace(labels_are="auto")
    for scan, learned in ((alone, recipe), (seeds, recipe.replace(source="seeds"))):
        backend = backend_of(base, learned, split_data([scan], 0), DistributedContext())
        assert backend.network.config.structures == ()


def test_what_is_no_better_is_not_kept(scans, base, tmp_path):
    job = prepared(scans[:1], base, SHORT.replace(l2_sp=1.0, learning_rate=1e-7, steps=2))
    report = job.run()
    assert not report.improved
    assert "No better than before" in report.verdict
    trained = job._run.trainer.network.state_dict()
    for name, value in base.network.state_dict().items():
        torch.testing.assert_close(trained[name], value)
    with pytest.raises(ConfigError, match="no better"):
        job.save(tmp_path / "worse.safetensors", report)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(scans, base):
    job = prepared(scans[:1], base, SHORT.replace(learning_rate=1e30, steps=20, evaluations=1))
    report = job.run()
    assert report.stopped == "nan"
    assert 0 < report.steps < 20
    assert not report.improved
    assert all(bool(torch.isfinite(v).all()) for v in job._run.best_state.values())


def test_it_stops_early_and_when_the_time_is_up(scans, base):
    recipe = SHORT.replace(learning_rate=1e-7, steps=6, evaluations=6, patience=2)
    report = prepared(scans[:1], base, recipe).run()
    assert (report.stopped, report.steps) == ("early", 2)
    job = prepared(scans[:1], base)
    job._spent = 60 * SHORT.minutes
    report = job.run()
    assert (report.stopped, report.steps) == ("time", 1)


def test_cancelled_before_the_first_step(scans, base):
    job = Adaptation(scans[:1], base, SHORT, device="cpu")
    assert job.prepare(should_stop=lambda: True) is None
    with pytest.raises(ConfigError, match="not prepared"):
        job.run()
    assert prepared(scans[:1], base).run(should_stop=lambda: True) is None


def test_a_file_that_cannot_be_written_can_be_written_elsewhere(scans, base, tmp_path):
    job = prepared(scans[:1], base, SHORT.replace(steps=2))
    report = as_improved(job.run())
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(OutputError):
        job.save(tmp_path / "taken" / "mine.safetensors", report)
    assert job.save(tmp_path / "mine.safetensors", report).is_file()


MEASURED = Measurement(
    clip_seconds=0.1, step_seconds=0.5, base_seconds=4.0, evaluation_seconds=2.0, memory=10
)
PLANNED = AdaptRecipe(
    minutes=1.0, steps=100, fewest_steps=20, clips=40, batch_size=8, evaluations=8
)


def test_a_schedule_that_fits_is_that_of_the_recipe():
    plan = plan_schedule(PLANNED.replace(minutes=2.0), MEASURED, 1.0)
    assert (plan.clips, plan.steps, plan.evaluations, plan.notes) == (40, 100, 8, ())
    assert plan.seconds == pytest.approx(4 + 40 * 0.1 + 100 * 0.5 + 8 * 2.0)
    assert plan.limit_seconds == 120


def test_a_schedule_is_shortened_to_its_time_and_reports_it():
    plan = plan_schedule(PLANNED, MEASURED, 10.0)
    assert (plan.clips, plan.steps, plan.evaluations) == (40, 60, 6)
    assert 10 + plan.seconds <= 60
    assert plan.notes == ("shortened to fit into 1 min: 60 of 100 steps, 6 of 8 evaluations",)


def test_the_shortest_schedule_uses_the_rest_of_the_time_for_steps():
    slow = dataclasses.replace(MEASURED, clip_seconds=0.5, step_seconds=1.2, base_seconds=16.0)
    plan = plan_schedule(PLANNED, slow, 10.0)
    assert (plan.clips, plan.steps, plan.evaluations) == (8, 23, 1)
    assert 58 < 10 + plan.seconds <= 60


def test_what_does_not_fit_is_refused_or_takes_longer_where_the_time_is_a_default():
    slow = dataclasses.replace(MEASURED, clip_seconds=1.0, step_seconds=5.0)
    with pytest.raises(ConfigError, match="does not fit into 1 min") as error:
        plan_schedule(PLANNED, slow, 10.0)
    assert "at least 20 steps, 8 clips" in str(error.value)
    assert "Allow 2.5 min" in str(error.value)
    plan = plan_schedule(PLANNED, slow, 10.0, fixed_time=False)
    assert (plan.clips, plan.steps, plan.evaluations) == (8, 20, 1)
    assert plan.limit_seconds > 10 + plan.seconds > 60
    assert "about 2.1 min instead of 1 min" in plan.notes[0]


@pytest.mark.parametrize("factor", [1.0, 4.0, 30.0])
def test_the_time_for_the_whole_recipe_shortens_nothing(factor):
    slow = dataclasses.replace(MEASURED, clip_seconds=factor * 0.1, step_seconds=factor * 0.5)
    plan = plan_schedule(PLANNED, slow, 10.0, fixed_time=False)
    assert plan.whole_minutes > 1
    whole = plan_schedule(PLANNED.replace(minutes=plan.whole_minutes), slow, 10.0)
    assert (whole.steps, whole.clips, whole.notes, whole.whole_minutes) == (100, 40, (), None)


def test_the_time_that_evaluating_the_base_model_takes_changes_the_steps():
    plan = plan_schedule(PLANNED, MEASURED, 10.0)
    assert plan_training(PLANNED, plan, 2.0, 20.0).steps == 56
    assert plan_training(PLANNED, plan, 2.0, 59.0).steps == 20
    assert plan_training(PLANNED, plan, 0.1, 5.0).steps == 100


def test_a_step_that_does_not_fit_into_the_memory_is_refused():
    def step(n):
        return torch.ones(n, 2**21).sum()

    assert profile_steps(step, 3, CPU).seconds > 0
    sizes = []
    slow = profile_steps(lambda n: time.sleep(0.01) or sizes.append(n), 10_000, CPU)
    assert slow.seconds > 40  # extrapolated
    assert sizes == [2, 2]
    with pytest.raises(DeviceMemoryError, match="too little memory"):
        profile_steps(step, 2**40, CPU)


def test_preparing_cuts_few_clips_and_evaluates_nothing(scans, base, monkeypatch):
    recipe = SHORT.replace(clips=4000)
    job = Adaptation(scans[:1], base, recipe, device="cpu")
    progress = []
    plan = job.prepare(progress.append)
    assert plan.clips > 100
    assert {p.stage for p in progress} == {"measuring"}
    assert len(job._backend._cutter) < 10


def test_evaluations_report_their_progress_and_none_is_made_twice(scans, base, monkeypatch):
    evaluated = []
    real = backends.evaluate
    monkeypatch.setattr(backends, "evaluate", lambda *a: evaluated.append(1) or real(*a))
    labels = keep_slices(scans[0].labels, {1: (5, 7, 9)})
    recipe = get_recipe("this-volume").replace(
        minutes=30.0, clips=8, steps=2, fewest_steps=1, evaluations=1, batch_size=4
    )
    job = prepared([scan_of(labels, seeds=True)], base, recipe)
    progress = []
    job.run(progress.append)
    assert len(evaluated) == 2  # the base model is not calibrated on annotated slices
    shares = [p.done / p.total for p in progress if p.stage == "evaluation" and p.step == 2]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2


def test_slow_evaluations_are_limited_to_fewer_labels(scans, base, monkeypatch):
    slow = lambda *a: 1.0  # noqa: E731 - seconds for one label on one slice
    monkeypatch.setattr(backends, "measure_visit", slow)
    job = Adaptation(scans[:2], base, SHORT.replace(minutes=5.0), device="cpu", fixed_time=False)
    assert len([x for v in job._backend._held_out for x in v.seeds]) == 4
    visits = sum(job._backend.visits)
    job.prepare()
    assert len([x for v in job._backend._held_out for x in v.seeds]) == 1
    assert sum(job._backend.visits) < visits


def test_other_networks_are_refused(scans, base, tmp_path):
    class Other(torch.nn.Module):
        config = None

    with pytest.raises(ConfigError, match="compact network"):
        Adaptation(scans, dataclasses.replace(base, network=Other()), SHORT)
    with pytest.raises(ConfigError, match="this-volume"):
        get_recipe("slow")
    assert {name: r.name for name, r in RECIPES.items()} == {n: n for n in RECIPES}


def test_bad_input_is_named(tmp_path):
    labels = make_labels(0)
    image, good = write_pair(tmp_path, 0)
    empty = write(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    with pytest.raises(VolumeError, match="hold no label"):
        read_pair(image, empty)
    shifted = AFFINE.copy()
    shifted[0, 3] = 5
    with pytest.raises(GridMismatchError, match="affines differ"):
        read_pair(image, write(tmp_path / "shifted.nii.gz", labels, shifted))
    thin = write(tmp_path / "thin.nii.gz", make_image(labels, 0)[..., 7:8])
    with pytest.raises(VolumeError, match="too few slices"):
        read_pair(thin, write(tmp_path / "thin_l.nii.gz", labels[..., 7:8]), axis=2)
    with pytest.raises(GridMismatchError, match="shape of the image"):
        LabelledScan.of(Volume(make_image(labels, 0)), labels[1:])
    with pytest.raises(VolumeError, match="single slices only"):
        check_scans([scan_of(keep_slices(labels, {1: (4, 7, 10)}))], None)
    with pytest.raises(VolumeError, match="too few slices to train on"):
        check_scans([scan_of(keep_slices(labels, {1: (7,)}))], None)
    with pytest.raises(ConfigError, match="label 7"):
        check_scans([read_pair(image, good)], [7])
    with pytest.raises(ConfigError, match="1 to 5"):
        check_scans([read_pair(image, good)] * 6, None)
    one = np.where(labels == 2, 0, labels)
    notes = check_scans([scan_of(labels), scan_of(one)], None)
    assert notes == ["image holds no label 2"]
