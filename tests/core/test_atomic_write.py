import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import napari_slmsam2
from napari_slmsam2.core.atomic_write import atomic_write, clear_abandoned
from napari_slmsam2.core.errors import OutputError


def write_text(text):
    return lambda file: file.write_text(text)


def test_a_file_is_written_and_nothing_else(tmp_path):
    path = atomic_write(tmp_path / "a.json", write_text("{}"))
    assert path.read_text() == "{}"
    assert os.listdir(tmp_path) == ["a.json"]


def test_nothing_is_replaced_unless_asked_for(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"a\.json: exists already"):
        atomic_write(path, write_text("new"))
    assert path.read_text() == "old"
    atomic_write(path, write_text("new"), overwrite=True)
    assert path.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "a.json"

    def write(file):
        file.write_text("ours")
        path.write_text("theirs")

    with pytest.raises(OutputError, match="exists already"):
        atomic_write(path, write)
    assert path.read_text() == "theirs"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyError("bug")])
def test_a_failure_leaves_the_old_file_and_nothing_new(tmp_path, failure):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write(file):
        file.write_text("half")
        raise failure

    expected = OutputError if isinstance(failure, OSError) else KeyError
    with pytest.raises(expected) as caught:
        atomic_write(path, write, overwrite=True)
    if expected is OutputError:
        assert str(path) in str(caught.value)
        assert "No space left" in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_is_a_clear_error(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"big\.bin: cannot be written"):
            atomic_write(tmp_path / "big.bin", lambda file: file.write_bytes(bytes(10_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_nothing_behind(tmp_path):
    script = textwrap.dedent(f"""
        import os, signal
        from napari_slmsam2.core.atomic_write import atomic_write, clear_abandoned
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by a shell's background
        def write(file):
            file.write_text("half")
            os.kill(os.getpid(), signal.SIGINT)
        atomic_write({str(tmp_path / "a.json")!r}, write)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert b"KeyboardInterrupt" in done.stderr
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path):
    with pytest.raises(OutputError, match=r"b\.json.*no folder"):
        atomic_write(tmp_path / "none" / "b.json", write_text(""))
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        atomic_write(tmp_path / "a.json", write_text(""), overwrite=True)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match=r"a\.json.*permission"):
        atomic_write(folder / "a.json", write_text(""))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder nobody may write to")
def test_a_folder_that_takes_no_files():
    with pytest.raises(OutputError, match=r"a\.json: cannot be written"):
        atomic_write("/proc/self/a.json", write_text(""))


def test_a_path_that_cannot_exist(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        atomic_write(tmp_path / ("x" * 300), write_text(""))
    with pytest.raises(OutputError, match="cannot be written"):
        atomic_write(f"{tmp_path}/a\0b", write_text(""))


def test_companion_files_come_along(tmp_path):
    def write(file):
        file.write_text("data")
        file.with_suffix(".hdr").write_text("header")

    atomic_write(tmp_path / "a.img", write)
    assert sorted(os.listdir(tmp_path)) == ["a.hdr", "a.img"]
    (tmp_path / "a.img").unlink()
    with pytest.raises(OutputError, match=r"a\.hdr: exists already"):
        atomic_write(tmp_path / "a.img", write)
    assert os.listdir(tmp_path) == ["a.hdr"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        path = atomic_write(tmp_path / "a.json", write_text(""))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


KILLED = """
import os, signal
from pathlib import Path
from napari_slmsam2.core import atomic_write as module
def write(file):
    file.mkdir()
    (file / "part").write_text("half")
    {early}
    return file
original = os.replace
def replace(source, target):
    original(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
module.atomic_write({path!r}, write, overwrite=True, replaceable_folder=lambda folder: True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("replaced", [True, False])
def test_the_next_run_clears_what_a_killed_one_left(tmp_path, replaced):
    path = tmp_path / "a.zarr"
    if replaced:
        path.mkdir()
        (path / "old").write_text("years of work")
    early = "" if replaced else "os.kill(os.getpid(), signal.SIGKILL)"
    code = KILLED.format(path=str(path), early=early)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = os.listdir(tmp_path)
    assert left
    assert path.name not in left
    other = tmp_path / "other.json"
    atomic_write(other, write_text("{}"))
    assert sorted(os.listdir(tmp_path)) == sorted([*left, "other.json"]), "of another target"
    clear_abandoned(path)
    found = sorted(os.listdir(tmp_path))
    assert found == (["a.zarr", "other.json"] if replaced else ["other.json"])
    if replaced:
        assert (path / "old").read_text() == "years of work"


def test_temporary_files_in_use_are_not_cleared(tmp_path):
    path = tmp_path / "a.json"

    def write(file):
        atomic_write(path, write_text("inner"))
        file.write_text("outer")

    assert atomic_write(path, write_text("first"), overwrite=True).read_text() == "first"
    path.unlink()
    with pytest.raises(OutputError, match="exists already"):
        atomic_write(path, write)
    assert path.read_text() == "inner"
    foreign = tmp_path / ".a.json.01234567-1-abc.tmp"
    foreign.mkdir()
    clear_abandoned(path)
    assert foreign.exists(), "of another computer, just made"
    os.utime(foreign, (0, 0))
    clear_abandoned(path)
    assert os.listdir(tmp_path) == ["a.json"]


def test_all_files_are_written_by_this_module():
    """One implementation: no other module renames a finished file into place."""
    source = Path(napari_slmsam2.__file__).parent
    found = {
        file.relative_to(source).as_posix()
        for file in source.rglob("*.py")
        if "os.replace(" in file.read_text(encoding="utf-8")
    }
    # A download is resumed from its part file, which is therefore kept.
    assert found == {"core/atomic_write.py", "engine/weights/download.py"}
