"""Repeating the recorded runs of a session."""

from __future__ import annotations

from collections.abc import Iterator

from napari_slmsam2.core.errors import CheckpointError
from napari_slmsam2.core.events import PropagationEvent
from napari_slmsam2.core.prompts import PromptSet
from napari_slmsam2.session.run_records import RunRecord, edits_since
from napari_slmsam2.session.session import SegmentationSession


def replay(session: SegmentationSession) -> Iterator[PropagationEvent]:
    """Repeat all runs of a session, from empty labels on; seeds and labels end as they are now.

    Every run ends with its own `Finished`. A caller that leaves in between leaves the session
    in between.

    Parameters
    ----------
    session : SegmentationSession

    Raises
    ------
    CheckpointError
        A model has other weights than then.
    """
    annotation = session.annotation
    runs, prompts, dirty = annotation.runs, annotation.prompts, annotation.dirty
    table, config = annotation.table, session.config
    digests = runs[-1].digests if runs else None
    edits, _ = edits_since(annotation.slices.read, annotation.volume.n_slices, digests)
    annotation.labels[...] = 0
    annotation.restore(PromptSet())
    for record in runs:
        yield from _replay_run(session, record)
    annotation.end_replay(prompts, dirty, edits, table)
    session.config = config


def _replay_run(session: SegmentationSession, record: RunRecord) -> Iterator[PropagationEvent]:
    """Repeat one run, up to the step at which it ended then."""
    disk = session.config.embedding_disk  # a setting of this computer
    session.config = record.config.replace(embedding_disk=disk)
    if str(session.model) != record.model:
        session.use_model(record.model)
    sha256 = session.load_model().sha256
    if sha256 != record.sha256:
        raise CheckpointError(
            f"model {session.model}",
            "is not the one of the recorded run",
            expected=f"SHA-256 {record.sha256}",
            found=sha256,
        )
    session.annotation.rewind(record)
    run = session.start_run(record.prompts, record.gaps, record.config, record.write_range)
    yield from run.events(lambda: not record.finished and run.steps >= record.steps)
