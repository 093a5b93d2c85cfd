"""Two processes that train together do what one does with the same batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.training.adapt import backends
from napari_slmsam2.training.distributed import DistributedContext, init_distributed
from tests.labelled_files import write_base, write_pair
from tests.training import distributed_job


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_like_one(tmp_path, repository, monkeypatch):
    write_pair(tmp_path, 0)
    write_base(tmp_path / "base.safetensors")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(backends, "choose_dtype", backends.choose_dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    distributed_job.work(DistributedContext(), tmp_path, tmp_path / "one")
    torch.set_num_threads(threads)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launcher, "--standalone", "--local-addr", "127.0.0.1"]
    command += [str(Path(distributed_job.__file__)), str(tmp_path), str(tmp_path / "two")]
    paths = [str(repository), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = tmp_path / "one", tmp_path / "two"
    files = sorted(str(f.relative_to(one)) for f in one.rglob("*"))
    assert files == sorted(str(f.relative_to(two)) for f in two.rglob("*"))
    for name, rate in distributed_job.RATES.items():
        expected, found = (load_file(f / f"{name}.safetensors") for f in (one, two))
        apart = torch.cat([(found[k] - v).abs().flatten() for k, v in expected.items()])
        # Where a gradient is nothing but rounding, AdamW still makes a whole step.
        assert float(apart.mean()) < 0.03 * rate, name
    assert (one / "curve.txt").read_text() == (two / "curve.txt").read_text()
    for name in ("losses_tuned.txt", "losses_batched.txt"):
        losses = [[float(x) for x in (f / name).read_text().split()] for f in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_parts_of_a_batch_do_not_overlap_and_leave_nothing_out():
    parts = [DistributedContext(rank, 3).part(8) for rank in range(3)]
    assert sorted(i for part in parts for i in part) == list(range(8))
    with pytest.raises(ConfigError, match="smaller than the number of processes"):
        DistributedContext(0, 4).part(3)
    assert DistributedContext(2, 3).largest_part(8) == max(map(len, parts))
    with pytest.raises(ConfigError, match="smaller than the number of processes"):
        DistributedContext(0, 4).largest_part(3)


def test_without_a_launcher_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with init_distributed("cpu") as distributed:
        assert (distributed.rank, distributed.size, distributed.is_main) == (0, 1, True)
        assert distributed.broadcast("this") == "this"
        assert not distributed.any(False)
        assert distributed.smallest(3) == 3
