"""Models that lie in the folder: listed, loaded, renamed, deleted; broken files do no harm."""

import pytest
from tests.labelled_files import write_base

from napari_slmsam2.core.errors import CheckpointError, ConfigError, OutputError
from napari_slmsam2.engine.loading import load_network, make_segmenter
from napari_slmsam2.engine.weights import model_folder
from napari_slmsam2.engine.weights.checkpoints import load_state, read_metadata, save_weights
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL, get_model, list_models


@pytest.fixture
def folder(tmp_path):
    """A folder with an adapted model."""
    path = write_base(tmp_path / "liver.safetensors")
    adapted = {
        "base": {"name": "compact", "sha256": "0" * 64},
        "recipe": {"name": "quick"},
        "held_out": "one of the volumes",
        "metrics": {"before": {"dice": 0.61}, "after": {"dice": 0.725}},
        "data": [{}, {}],
    }
    state = load_state(path)
    save_weights(path, state, {**read_metadata(path), "adapted": adapted})
    return tmp_path


def own(folder):
    return {
        card.name: card
        for card in list_models(folder)
        if card.path is not None and not card.bundled
    }


def test_an_adapted_model_is_found_and_loaded_by_its_name(folder, monkeypatch):
    card = own(folder)["liver"]
    assert card.licence == "CC0-1.0"
    assert card.problem is None
    assert not card.needs_download
    assert "from compact to 2 volumes with the recipe quick" in card.description
    assert "0.610 before, 0.725 after" in card.description
    loaded = load_network("liver", folder=folder)
    assert (loaded.name, loaded.path) == ("liver", folder / "liver.safetensors")
    assert make_segmenter("liver", device="cpu", folder=folder).sha256 == loaded.sha256
    with pytest.raises(ConfigError, match="liver"):
        get_model("livr", folder)
    monkeypatch.setenv("NAPARI_SLMSAM2_MODELS", str(folder))
    assert get_model("liver").path == card.path
    assert [c.name for c in list_models()][-1] == "liver"


def test_a_broken_file_gets_a_card_that_says_why(folder):
    whole = (folder / "liver.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.safetensors").write_bytes(b"\xff" * 64)
    (folder / "empty.safetensors").touch()
    (folder / ".hidden.safetensors").touch()
    save_weights(
        folder / "foreign.safetensors", load_state(folder / "liver.safetensors"), {"by": "others"}
    )
    (folder / "folder.safetensors").mkdir()
    found = own(folder)
    assert sorted(found) == ["empty", "folder", "foreign", "half", "liver", "noise"]
    for name in found.keys() - {"liver"}:
        assert found[name].problem
        assert name in found[name].description
        with pytest.raises(CheckpointError):
            load_network(name, folder=folder)
    assert "the network" in found["foreign"].problem
    assert "cannot be used" in found["half"].title


def test_weights_that_do_not_fit_their_config_are_refused(folder):
    path = folder / "liver.safetensors"
    noted = read_metadata(path)
    noted["config"]["memory_dim"] = 16
    save_weights(path, load_state(path), noted)
    with pytest.raises(CheckpointError, match="of another shape"):
        load_network("liver", folder=folder)


def test_a_model_is_renamed_and_deleted(folder):
    before = (folder / "liver.safetensors").read_bytes()
    assert model_folder.rename_model("liver", "liver-2", folder) == folder / "liver-2.safetensors"
    assert list(own(folder)) == ["liver-2"]
    assert (folder / "liver-2.safetensors").read_bytes() == before
    model_folder.delete_model("liver-2", folder)
    assert not own(folder)
    with pytest.raises(ConfigError, match="is not known"):
        model_folder.delete_model("liver-2", folder)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a\\b", ".hidden", "x.safetensors", "a b"])
def test_names_that_no_file_should_have(folder, name):
    with pytest.raises(ConfigError, match="cannot be the name"):
        model_folder.rename_model("liver", name, folder)
    assert list(own(folder)) == ["liver"]


def test_names_that_are_taken(folder):
    for name in (DEFAULT_MODEL, "Liver"):
        with pytest.raises(ConfigError, match="is taken"):
            model_folder.path_for(name, folder)
    for change in (model_folder.delete_model, model_folder.file_of):
        with pytest.raises(ConfigError, match="is part of this program"):
            change("flow", folder)


def test_a_folder_without_room_is_found_before_the_work(folder):
    model_folder.check_room(folder / "new" / "x.safetensors")
    with pytest.raises(OutputError, match="not enough space"):
        model_folder.check_room(folder / "x.safetensors", 2**60)
    with pytest.raises(OutputError, match="cannot be written"):
        model_folder.check_room(folder / "liver.safetensors" / "x.safetensors")
