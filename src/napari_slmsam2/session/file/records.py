"""Prompts and records of runs as JSON values and arrays, and back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.label_table import LabelEntry, LabelTable
from napari_slmsam2.core.plan import Gap
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt
from napari_slmsam2.core.quality import SliceQuality
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.session.file.arrays import Arrays, Members
from napari_slmsam2.session.run_records import RunRecord, SliceStates


def model_name(model: str | os.PathLike[str]) -> str:
    """Names as they are, files with their whole path."""
    text = str(model)
    return str(Path(text).absolute()) if Path(text).is_file() else text


class Packed:
    """Turns prompts and records into JSON values and arrays; what is shared is stored once."""

    def __init__(self, arrays: Members) -> None:
        self.prompts: list[dict[str, Any]] = []
        self.prompt_sets: list[dict[str, Any]] = []
        self._arrays = arrays
        self._numbers: dict[int, int] = {}

    def prompt_set(self, prompts: PromptSet) -> int:
        """The number of a prompt set in `prompt_sets`."""
        if id(prompts) not in self._numbers:
            self.prompt_sets.append(
                {
                    "prompts": [self.prompt(prompt) for prompt in prompts],
                    "extents": [[label, *ends] for label, ends in prompts.extents.items()],
                }
            )
            self._numbers[id(prompts)] = len(self.prompt_sets) - 1
        return self._numbers[id(prompts)]

    def prompt(self, prompt: SlicePrompt) -> int:
        """The number of a prompt in `prompts`."""
        if id(prompt) in self._numbers:
            return self._numbers[id(prompt)]
        previous = None if prompt.previous is None else self.prompt(prompt.previous)
        number = self._numbers[id(prompt)] = len(self.prompts)
        mask = None
        if prompt.mask is not None:
            mask = f"masks/{number}.npy"
            self._arrays[mask] = prompt.mask
        self.prompts.append(
            {
                "label": prompt.label,
                "index": prompt.index,
                "kind": prompt.kind.value,
                "mask": mask,
                "points": None if prompt.points is None else prompt.points.tolist(),
                "signs": None if prompt.point_labels is None else prompt.point_labels.tolist(),
                "box": prompt.box,
                "previous": previous,
                **_drawn(prompt),
            }
        )
        return number

    def run(self, number: int, record: RunRecord) -> dict[str, Any]:
        """The values of a record; its edited slices become an array."""
        edits = f"runs/{number}.npy"
        slices = [record.edits.get(index) for index in record.edits.indices]
        dtype = np.result_type(np.uint8, *[plane.dtype for plane in slices])
        self._arrays[edits] = np.array(slices, dtype).reshape(
            len(slices), *record.edits.slice_shape
        )
        return {
            "prompts": self.prompt_set(record.prompts),
            "gaps": [dataclasses.astuple(gap) for gap in record.gaps],
            "config": record.config.to_dict(),
            "write_range": record.write_range,
            "model": model_name(record.model),
            "sha256": record.sha256,
            "edits": edits,
            "edited": record.edits.indices,
            "digests": [digest.hex() for digest in record.digests],
            "known": sorted(record.known),
            "steps": record.steps,
            "finished": record.finished,
            "seconds": record.seconds,
            "locked": sorted(record.locked),
        }


def _drawn(prompt: SlicePrompt) -> dict[str, Any]:
    """The lasso and the scribble of a prompt, where it has them, as values for JSON."""
    values: dict[str, Any] = {}
    if prompt.lasso is not None:
        values["lasso"] = prompt.lasso.tolist()
    if prompt.scribble is not None and prompt.scribble_labels is not None:
        values["scribble"] = prompt.scribble.tolist()
        values["scribble_signs"] = prompt.scribble_labels.tolist()
    return values


def _pointed(label: int, index: int, values: Mapping[str, Any]) -> SlicePrompt:
    """Points, box, lasso and scribble from the values of a prompt, without a mask."""
    points = np.array(values["points"], float).reshape(-1, 2)
    box = None if values["box"] is None else tuple(values["box"])
    # Files of earlier versions have neither of them.
    lasso, scribble = values.get("lasso"), values.get("scribble")
    if len(points) or box is not None:
        prompt = SlicePrompt.from_points(label, index, points, values["signs"], box)
        prompt = prompt if lasso is None else prompt.with_lasso(lasso)
    elif lasso is not None:
        prompt = SlicePrompt.from_lasso(label, index, lasso)
    else:
        signs = values.get("scribble_signs")
        return SlicePrompt.from_scribble(label, index, scribble or [], signs)
    if scribble is not None:
        prompt = prompt.with_scribble(scribble, values["scribble_signs"])
    return dataclasses.replace(prompt, previous=None)


class Unpacked:
    """The inverse of `Packed`."""

    def __init__(self, content: Mapping[str, Any], arrays: Arrays, volume: Volume) -> None:
        self._arrays = arrays
        self._volume = volume
        self._prompts: list[SlicePrompt] = []
        for values in content["prompts"]:
            self._prompts.append(self._prompt(values))
        self._sets = [
            PromptSet(
                {(p.label, p.index): p for p in (self._prompts[n] for n in values["prompts"])},
                {int(label): (int(first), int(last)) for label, first, last in values["extents"]},
            )
            for values in content["prompt_sets"]
        ]

    def prompt_set(self, number: int) -> PromptSet:
        """The prompt set of a number."""
        return self._sets[number]

    def _prompt(self, values: Mapping[str, Any]) -> SlicePrompt:
        label, index, kind = values["label"], values["index"], PromptKind(values["kind"])
        if kind is PromptKind.ABSENT:
            return SlicePrompt.absent_at(label, index)
        if kind is PromptKind.MASK:
            mask = self._arrays.read(values["mask"], self._volume.slice_shape)
            return SlicePrompt.from_mask(label, index, mask)
        prompt = _pointed(label, index, values)
        if values["mask"] is not None:
            mask = self._arrays.read(values["mask"], self._volume.slice_shape)
            prompt = prompt.answered(mask)
        if values["previous"] is None:
            return prompt
        return dataclasses.replace(prompt, previous=self._prompts[values["previous"]])

    def run(self, number: int, values: Mapping[str, Any]) -> RunRecord:
        """The record of a run, by its number and values."""
        edited = [int(index) for index in values["edited"]]
        planes = self._arrays.read(values["edits"], (len(edited), *self._volume.slice_shape))
        edits = SliceStates(self._volume.slice_shape)
        for index, plane in zip(edited, planes, strict=True):
            edits.put(index, plane)
        digests = [bytes.fromhex(digest) for digest in values["digests"]]
        if len(digests) != self._volume.n_slices:
            raise ValueError(f"run {number} has {len(digests)} digests")
        config = PropagationConfig.from_dict(values["config"])
        write_range = values["write_range"]
        return RunRecord(
            self._sets[values["prompts"]],
            tuple(Gap(*gap) for gap in values["gaps"]),
            config,
            None if write_range is None else (int(write_range[0]), int(write_range[1])),
            str(values["model"]),
            values["sha256"],
            edits,
            digests,
            frozenset((int(label), int(index)) for label, index in values["known"]),
            int(values["steps"]),
            bool(values["finished"]),
            float(values["seconds"]),
            # Files of earlier versions have no locks.
            frozenset(int(label) for label in values.get("locked", ())),
        )


def pack_table(table: LabelTable) -> list[dict[str, Any]]:
    """A label table as values for JSON."""
    labels = sorted({*table.labels, *table.locked, *table.done})
    return [{"label": label, **dataclasses.asdict(table.entry(label))} for label in labels]


def unpack_table(values: Sequence[Mapping[str, Any]]) -> LabelTable:
    """The inverse of `pack_table`."""
    entries = {}
    for one in values:
        name, colour = one["name"], one["colour"]
        if colour is not None:
            red, green, blue, alpha = (float(part) for part in colour)
            colour = red, green, blue, alpha
        name = None if name is None else str(name)
        entries[int(one["label"])] = LabelEntry(
            name, colour, bool(one["locked"]), bool(one["done"])
        )
    return LabelTable().with_entries(entries)


def pack_scores(quality: Mapping[int, Mapping[int, SliceQuality]]) -> npt.NDArray[np.float64]:
    """Scores as an array, one row per label and slice, shape (N, 9).

    The columns are label, slice index, presence, predicted overlap, stability, agreement, area, and
    row and column of the centroid; NaN where a value is missing.
    """
    nothing = (np.nan, np.nan)
    rows = [
        (
            label, index, q.presence, q.predicted_iou, q.stability,
            np.nan if q.agreement is None else q.agreement, q.area, *(q.centroid or nothing),
        )
        for label, slices in quality.items()
        for index, q in slices.items()
    ]  # fmt: skip
    return np.array(rows, np.float64).reshape(-1, 9)


def unpack_scores(values: npt.NDArray[Any]) -> dict[int, dict[int, SliceQuality]]:
    """The inverse of `pack_scores`.

    Raises
    ------
    ValueError
        The array has another shape or dtype.
    """
    if values.ndim != 2 or values.shape[1] != 9 or values.dtype != np.float64:
        raise ValueError(f"the scores are {values.dtype} of shape {values.shape}")
    found: dict[int, dict[int, SliceQuality]] = {}
    for label, index, presence, iou, stability, agreement, area, row, column in values.tolist():
        found.setdefault(int(label), {})[int(index)] = SliceQuality(
            presence,
            iou,
            stability,
            None if np.isnan(agreement) else agreement,
            int(area),
            None if np.isnan(row) else (row, column),
        )
    return found
