"""Shards on the disk: complete or not there."""

from pathlib import Path

import numpy as np
import pytest

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.errors import OutputError
from napari_slmsam2.training.data.shards import write_shards


def test_a_shard_that_cannot_be_written_leaves_no_file(tmp_path, monkeypatch):
    def fill_the_disk(file, **arrays):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    config = CompactConfig(window_size=48, widths=(8, 8, 16, 16), memory_dim=16)
    monkeypatch.setattr(np, "savez", fill_the_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_shards(tmp_path, None, config, split="train", numbers=[0], shard_clips=1)
    assert list(tmp_path.iterdir()) == []
