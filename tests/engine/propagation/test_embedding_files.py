"""Embeddings on the disk: the same bits, up to a size, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import shutil

import numpy as np
import pytest
import torch

from napari_slmsam2.core.atomic_write import AtomicTarget
from napari_slmsam2.core.errors import SlmSam2Warning
from napari_slmsam2.engine.propagation.embedding_files import (
    EmbeddingFiles,
    clear_embeddings,
    stored_files,
)

IMAGE = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
BYTES = 4096


def tensors(value: int = 1) -> dict[str, torch.Tensor]:
    return {"feature": torch.full((1, BYTES // 4), value, dtype=torch.float32)}


def size_of_one(folder) -> int:
    store = EmbeddingFiles(folder, 2**30, "encoder")
    store.put("one", tensors())
    [file] = stored_files(folder)
    clear_embeddings(folder)
    return file.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_dtype_and_memory_layout_come_back(tmp_path, dtype):
    whole = torch.randn(2, 8, 6, 5).to(dtype)
    given = {
        "contiguous": whole[:1],
        "channels last": whole.to(memory_format=torch.channels_last)[:1],
        "one slice of a batch": whole.permute(1, 2, 3, 0)[..., 1].permute(2, 0, 1)[None],
        "with holes": whole[:, ::2],
    }
    store = EmbeddingFiles(tmp_path / "new" / "folder", 2**30, "encoder")
    store.put("key", given)
    found = EmbeddingFiles(tmp_path / "new" / "folder", 2**30, "encoder").get("key")
    assert found is not None
    for name, tensor in given.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == dtype
        if name in ("contiguous", "channels last"):
            assert found[name].stride() == tensor.stride()


def test_everything_that_changes_an_embedding_changes_its_key(tmp_path):
    store, other = (EmbeddingFiles(tmp_path, 2**30, name) for name in ("encoder", "another"))
    keys = [
        store.key(IMAGE, 64, torch.float32),
        store.key(IMAGE, 64, torch.bfloat16),
        store.key(IMAGE, 128, torch.float32),
        store.key(np.nextafter(IMAGE, 2), 64, torch.float32),
        store.key(IMAGE.reshape(4, 3), 64, torch.float32),
        store.key(np.stack([IMAGE] * 3), 64, torch.float32),
        other.key(IMAGE, 64, torch.float32),
    ]
    assert len(set(keys)) == len(keys)
    assert store.key(IMAGE.copy(order="F"), 64, torch.float32) == keys[0]


def test_the_least_recently_used_are_deleted_beyond_the_size(tmp_path):
    one = size_of_one(tmp_path)
    store = EmbeddingFiles(tmp_path, 3 * one + 10, "encoder")
    for age, name in enumerate(("oldest", "old", "new")):
        store.put(name, tensors())
        [path] = tmp_path.glob(f"{name}.*")
        os.utime(path, (1000 + age, 1000 + age))
    assert store.get("oldest") is not None  # used now
    store.put("newest", tensors())
    assert {file.path.stem for file in stored_files(tmp_path)} == {"oldest", "new", "newest"}
    store.put("too large", {"feature": torch.zeros(4 * one)})
    assert len(stored_files(tmp_path)) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_file_is_deleted_and_can_be_stored_again(tmp_path, damage):
    store = EmbeddingFiles(tmp_path, 2**30, "encoder")
    store.put("key", tensors())
    [path] = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-7] ^= 4
    path.write_bytes(data[: {"cut": 100, "flipped": None, "emptied": 0}[damage]])
    assert store.get("key") is None
    assert stored_files(tmp_path) == []
    store.put("key", tensors(2))
    assert torch.equal(store.get("key")["feature"], tensors(2)["feature"])


def test_a_disk_that_is_full_ends_the_storing_with_one_warning(tmp_path, monkeypatch):
    store = EmbeddingFiles(tmp_path, 2**30, "encoder")
    store.put("before", tensors())

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.warns(SlmSam2Warning, match="no longer stored.*No space left on device"):
        store.put("key", tensors())
    store.put("another", tensors())  # a second warning would be an error
    assert store.get("key") is None
    assert store.get("before") is not None
    assert [path.stem for path in tmp_path.iterdir()] == ["before"], "nothing is half-written"


def test_a_folder_that_cannot_be_made_ends_the_storing_with_one_warning(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    store = EmbeddingFiles(tmp_path / "file", 2**30, "encoder")
    with pytest.warns(SlmSam2Warning, match="no longer stored"):
        store.put("key", tensors())
    assert store.get("key") is None
    assert (tmp_path / "file").read_text() == "not a folder"


def test_clearing_leaves_what_belongs_to_others(tmp_path):
    store = EmbeddingFiles(tmp_path, 2**30, "encoder")
    store.put("key", tensors())
    (tmp_path / "notes.txt").write_text("mine")
    assert clear_embeddings(tmp_path) > BYTES
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert clear_embeddings(tmp_path / "missing") == 0
    shutil.rmtree(tmp_path)
    store.put("key", tensors())
    assert store.get("key") is not None


def _read_and_write(folder: str, budget: int, seed: int, wrong) -> None:
    store = EmbeddingFiles(folder, budget, "encoder")
    for number in np.random.default_rng(seed).integers(0, 6, 60):
        found = store.get(f"key {number}")
        if found is None:
            store.put(f"key {number}", tensors(int(number)))
        elif not torch.equal(found["feature"], tensors(int(number))["feature"]):
            wrong.value += 1


@pytest.mark.slow
def test_processes_share_a_folder(tmp_path):
    """Writing, reading and deleting the same files at the same time."""
    one = size_of_one(tmp_path)
    context = multiprocessing.get_context("spawn")
    wrong = context.Value("i", 0)
    workers = [
        context.Process(target=_read_and_write, args=(str(tmp_path), 4 * one + 10, seed, wrong))
        for seed in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert wrong.value == 0
    files = stored_files(tmp_path)
    assert 1 <= len(files) <= 4 + 2, "each further process may exceed the size by one file"
    assert len(list(tmp_path.iterdir())) == len(files), "no temporary file is left"


def write_and_die(folder) -> None:
    target = AtomicTarget(folder / "key.embedding")
    target.place.write_bytes(b"half of it")
    os._exit(1)


def test_clearing_deletes_what_a_killed_process_left(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=write_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert len(list(tmp_path.iterdir())) == 1
    assert clear_embeddings(tmp_path) == 0
    assert not list(tmp_path.iterdir())
