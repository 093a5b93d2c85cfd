"""Records of jobs beside their outputs: what is done, and from what."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import napari_slmsam2
from napari_slmsam2.batch.jobs import Executed, Job, worker_name
from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.errors import CheckpointError, SlmSam2Error
from napari_slmsam2.engine.weights.checkpoints import file_sha256
from napari_slmsam2.engine.weights.registry import get_model, is_weights_file
from napari_slmsam2.io.formats import DICOM, format_to_read

SUFFIX = ".batch.json"
_DONE_MEANWHILE = "was done by another batch in the meantime"
_COMPANIONS = {
    ".hdr": (".img", ".img.gz"),
    ".img": (".hdr",),
    ".nhdr": (".raw", ".raw.gz"),
    ".head": (".brik", ".brik.gz"),
    ".brik": (".head",),
    ".par": (".rec",),
    ".rec": (".par",),
}


@dataclass(frozen=True, slots=True)
class Check:
    """Whether a job has to run.

    Attributes
    ----------
    done : bool
        It ran before, with the same inputs, settings and model.
    problem : str or None
        Why it cannot run: its outputs exist and must not be replaced.
    replace : bool
        Outputs of an earlier attempt exist, and may be replaced.
    """

    done: bool = False
    problem: str | None = None
    replace: bool = False


def record_path(job: Job) -> Path:
    """The file of the job's record, beside its first output."""
    output = job.main_output
    return output.with_name(output.name + SUFFIX)


def check_job(job: Job) -> Check:
    """Compare a job with the record and the files of an earlier one.

    A job is done if its record states so, of the same inputs, settings and model, and all files
    that it wrote exist. These may have been edited since. Outputs of an attempt that failed are
    replaced if they are as that attempt left them, and those of an attempt of the same batch,
    whose worker has died. Other files are never replaced, unless ``job.replace``.
    """
    if job.replace:
        return Check(replace=True)
    record = _read(record_path(job))
    existing = {option: path for option, path in job.outputs.items() if path.exists()}
    state = record.get("state")
    if state == "done" and record.get("written", {}).keys() <= existing.keys():
        differs = _differences(job, record)
        if not differs:
            return Check(done=True)
        if existing:
            return Check(problem=f"{_listed(existing)} made with other {' and '.join(differs)}")
    if not existing:
        return Check()
    if state == "started" and record.get("batch") == job.batch:
        return Check(replace=True)
    written = record.get("written", {})
    if state == "failed" and all(
        option in written and _is_same(path, written[option]) for option, path in existing.items()
    ):
        return Check(replace=True)
    return Check(problem=f"{_listed(existing)} exists already")


def run_recorded(job: Job, execute: Callable[[tuple[str, ...]], Executed]) -> Executed:
    """Run a job, and keep its record beside the outputs.

    The record is written before the command runs, so that what a killed worker leaves is known
    as the job's own, and again at the end. A job that failed without a file leaves no record.

    Parameters
    ----------
    job : Job
    execute : callable
        Runs a command line.

    Raises
    ------
    OutputError
        The record cannot be written.
    """
    check = check_job(job)
    if check.done:
        # The worker of this batch may have died after the job, while it copied a part.
        is_own = _read(record_path(job)).get("batch") == job.batch
        return Executed(True, notes=() if is_own else (_DONE_MEANWHILE,))
    if check.problem is not None:
        return Executed(False, (f"{check.problem}; --force replaces it.",))
    path = record_path(job)
    before = _read(path)
    again = before.get("state") == "started" and before.get("batch") == job.batch
    attempts = before.get("attempts", 0) + 1 if again else 1
    record: dict[str, Any] = {
        "program": f"napari-slmsam2 {napari_slmsam2.__version__}",
        "state": "started",
        "batch": job.batch,
        "attempts": attempts,
        "command": list(job.words),
        "worker": worker_name(),
        "started": _now(),
        **_origin(job),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    files = _states(job)
    _write(path, record)
    command, *options = job.words
    force = ("--force",) if check.replace else ()
    executed = execute((command, *force, *options))
    executed = replace(executed, attempts=attempts)
    # Files of the user that a failed attempt has not replaced are not the job's.
    changed = [option for option, state in _states(job).items() if files.get(option) != state]
    if not changed and not executed.ok:
        if before and not again:
            _write(path, before)
        else:
            path.unlink(missing_ok=True)
        return executed
    written = {option: fingerprint(job.outputs[option]) for option in changed}
    record.update(state="done" if executed.ok else "failed", written=written, ended=_now())
    try:
        _write(path, record)
    except SlmSam2Error as error:
        return replace(executed, notes=(*executed.notes, str(error)))
    return executed


def _states(job: Job) -> dict[str, tuple[int, int, int]]:
    """What tells one version of each existing output from another."""
    states = {o: path.stat() for o, path in job.outputs.items() if path.exists()}
    return {o: (s.st_ino, s.st_size, s.st_mtime_ns) for o, s in states.items()}


def fingerprint(path: Path) -> dict[str, Any]:
    """Size, time of the last change and SHA-256 of a file; of a folder, of names, sizes and times.

    Returns
    -------
    dict
        ``size`` in bytes, ``mtime_ns``, ``sha256``. Values for JSON.
    """
    parts = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    parts += [] if path.is_dir() else _companions(path)
    states = [part.stat() for part in parts]
    size, changed = sum(s.st_size for s in states), max((s.st_mtime_ns for s in states), default=0)
    if len(parts) == 1 and not path.is_dir():
        return {"size": size, "mtime_ns": changed, "sha256": file_sha256(path)}
    digest = hashlib.sha256()
    for part, state in zip(parts, states, strict=True):
        digest.update(f"{part.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return {"size": size, "mtime_ns": changed, "sha256": digest.hexdigest()}


def _companions(path: Path) -> list[Path]:
    """Files that are read together with a file: its other part, or the slices of its series."""
    stem = path.with_suffix("")
    names = _COMPANIONS.get(path.suffix.lower(), ())
    found = [p for name in names if (p := stem.with_name(stem.name + name)).is_file()]
    return found or [p for p in _series(path) if p != path]


def _series(path: Path) -> list[Path]:
    """The files of the DICOM series that a file belongs to; empty for other files."""
    try:
        known = format_to_read(path)
        return known.files(path) if known is DICOM else []
    except SlmSam2Error:
        return []


def _is_same(path: Path, known: Mapping[str, Any]) -> bool:
    """Whether a file is as it was; its content is read only where its time differs."""
    if not path.exists():
        return False
    if path.is_file() and not _companions(path):
        state = path.stat()
        if state.st_size != known.get("size"):
            return False
        if state.st_mtime_ns == known.get("mtime_ns"):
            return True
    return fingerprint(path)["sha256"] == known.get("sha256")


def model_sha256(model: str, folder: Path | None) -> str | None:
    """SHA-256 of the weights of a model; None for one without weights.

    Raises
    ------
    ConfigError, CheckpointError
        There is no such model, or its file cannot be read.
    """
    if is_weights_file(model):
        return _weights_sha256(Path(model))
    card = get_model(model, folder)
    if card.weights is not None:
        return card.weights.sha256
    return None if card.path is None else _weights_sha256(card.path)


def _weights_sha256(path: Path) -> str:
    """SHA-256 of a file of weights, which many jobs share."""
    if not path.is_file():
        raise CheckpointError(str(path), "not found")
    state = path.stat()
    return _unchanged_sha256(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _unchanged_sha256(path: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns
    return file_sha256(path)


def _origin(job: Job) -> dict[str, Any]:
    """What the result of a job follows from."""
    inputs = {
        option: [{"path": str(path), **fingerprint(path)} for path in paths]
        for option, paths in job.inputs.items()
    }
    return {"inputs": inputs, "settings": dict(job.settings), "model": _model(job)}


def _model(job: Job) -> dict[str, str | None] | None:
    """A model is known by its weights, and by its name where it has none."""
    if job.model is None:
        return None
    sha256 = model_sha256(job.model, job.models_folder)
    return {"name": Path(job.model).name, "sha256": sha256}


def _differences(job: Job, record: Mapping[str, Any]) -> list[str]:
    """In what a job differs from a recorded one."""
    known, differs = record.get("inputs", {}), []
    if known.keys() != job.inputs.keys() or any(
        len(known[option]) != len(paths)
        or not all(_is_same(p, k) for p, k in zip(paths, known[option], strict=True))
        for option, paths in job.inputs.items()
    ):
        differs.append("inputs")
    if record.get("settings") != dict(job.settings):
        differs.append("settings")
    model, then = _model(job), record.get("model")
    key = "name" if model and model["sha256"] is None else "sha256"
    if (model or {}).get(key) != (then or {}).get(key):
        differs.append("model")
    return differs


def _read(path: Path) -> dict[str, Any]:
    """A record; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=1) + "\n"
    atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"), overwrite=True)


def _listed(paths: Mapping[str, Path]) -> str:
    return ", ".join(f"{option} {path}" for option, path in paths.items())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
