"""The commands that `batch` runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchCommand:
    """What `batch` must know of a command.

    Attributes
    ----------
    each : str
        The parameter of which every job has another value; ``--{each}s`` is its pattern.
    inputs, outputs : tuple of str
        Parameters that are files. The record of a job is kept beside its first output.
    model : str or None
        Parameter of the model.
    """

    each: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model: str | None = None


COMMANDS = {
    "propagate": BatchCommand(
        "image",
        ("image", "seeds", "label_names"),
        ("out", "report", "qc", "session", "save_label_names"),
        "model",
    ),
    "replay": BatchCommand("session", ("session", "image"), ("out",), "model"),
    "adapt": BatchCommand("pair", ("pair",), ("name", "report"), "base"),
    "evaluate": BatchCommand(
        "prediction", ("prediction", "reference", "seeds"), ("json_file", "plot")
    ),
}
