"""Time series: seeds carried through time, and one session per time point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import GridMismatchError, PromptError
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.session.session import SegmentationSession

Labels = npt.NDArray[np.integer]
NewSession = Callable[[Volume], SegmentationSession]


class _SliceThroughTime:
    """One slice of every volume of a series, shape (T, H, W), read when it is indexed."""

    def __init__(self, volumes: Sequence[Volume], index: int) -> None:
        self._volumes, self._index = volumes, index
        self.shape = (len(volumes), *volumes[0].slice_shape)
        self.dtype = np.result_type(*(volume.data.dtype for volume in volumes))

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        first, *rest = key if isinstance(key, tuple) else (key,)
        times = np.arange(self.shape[0])[first]
        planes = [self._volumes[t].take(self._index) for t in np.atleast_1d(times).tolist()]
        stacked = np.stack(planes)[(slice(None), *rest)]
        found: npt.NDArray[Any] = stacked if np.ndim(times) else stacked[0]
        return found


def slice_through_time(volumes: Sequence[Volume], index: int) -> Volume:
    """One slice of a series as a volume whose slices are the time points.

    Parameters
    ----------
    volumes : sequence of Volume
        Of the time points; of one shape and axis.
    index : int
        Of the slice.
    """
    first = volumes[0]
    _, row, column = first.slice_spacing
    return Volume(
        _SliceThroughTime(volumes, index), 0, (min(row, column), row, column), first.unit,
        name=f"{first.name}, slice {index} of all time points",
    )  # fmt: skip


def carry_seeds(
    volumes: Sequence[Volume],
    seeds: Mapping[int, Labels],
    new_session: NewSession,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[int, Labels]:
    """Propagate the annotated slices of some time points to all other ones.

    Each annotated slice is propagated along time, as slices are along space, so that its objects
    may move and change. An object that ends has no seed from there on.

    Parameters
    ----------
    volumes : sequence of Volume
        Of the time points, in their order.
    seeds : mapping of {time: ndarray of int, shape of a volume}
        Label maps; their non-empty slices are the annotated ones.
    new_session : callable
        Makes a session of a volume.
    should_stop : callable
        Checked between slices; what was carried so far is returned.

    Returns
    -------
    dict of {time: ndarray of int, shape of a volume}
        Seeds of the time points that ``seeds`` lacks.

    Raises
    ------
    GridMismatchError
        The volumes, or volumes and seeds, differ in shape or axis.
    """
    first = volumes[0]
    for what, shape in [
        *((volume.name, (*volume.shape, volume.axis)) for volume in volumes),
        *((f"seeds of time point {t}", (*x.shape, first.axis)) for t, x in seeds.items()),
    ]:
        if shape != (*first.shape, first.axis):
            raise GridMismatchError(
                what, "differs in shape or axis from the first time point",
                expected=(*first.shape, first.axis), found=shape,
            )  # fmt: skip
    dtype = np.result_type(*(labels.dtype for labels in seeds.values()))
    carried = {t: np.zeros(first.shape, dtype) for t in range(len(volumes)) if t not in seeds}
    annotated = np.any([labels.any(axis=first.plane_axes) for labels in seeds.values()], axis=0)
    for index in np.flatnonzero(annotated).tolist() if carried else ():
        session = new_session(slice_through_time(volumes, index))
        for time, labels in seeds.items():
            for seed in SlicePrompt.of_labels(labels[first.slicer(index)], time):
                session.add_prompt(seed)
        for _ in session.propagate(should_stop=should_stop):
            pass
        if should_stop():
            break
        for time, labels in carried.items():
            labels[first.slicer(index)] = session.labels[time]
    return carried


def series_sessions(
    volumes: Sequence[Volume],
    seeds: Mapping[int, Labels],
    *,
    carry: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    load: Callable[[SegmentationSession], object] = SegmentationSession.load_model,
    **options: Any,
) -> Iterator[tuple[int, SegmentationSession]]:
    """A session of every time point, with its seeds; one model and one intensity window for all.

    Parameters
    ----------
    volumes : sequence of Volume
        Of the time points, in their order.
    seeds : mapping of {time: ndarray of int, shape of a volume}
        Label maps; their non-empty slices are the seeds.
    carry : bool
        Whether time points without seeds get them from the other ones, see `carry_seeds`.
    should_stop : callable
        Checked while seeds are carried.
    load : callable
        ``load(session)`` makes the model of a session ready; it is then used for all.
    **options
        Of `SegmentationSession`. The default window is that of the first time point with seeds.

    Yields
    ------
    time : int
    session : SegmentationSession
        Of which nothing was run. Where an object has ended everywhere, there are no seeds.

    Raises
    ------
    PromptError
        There are no seeds, or none at some time point, and ``carry`` is false.
    """
    seeds = {time: labels for time, labels in sorted(seeds.items()) if labels.any()}
    missing = [time for time in range(len(volumes)) if time not in seeds]
    if not seeds or (missing and not carry):
        raise PromptError(
            "seeds", f"there are none at {len(missing)} of {len(volumes)} time points",
            expected="seeds at every time point, or at one and --carry (carry=True in Python)",
            found=f"none at {', '.join(map(str, missing[:12]))}" + ", ..." * (len(missing) > 12),
        )  # fmt: skip
    first = SegmentationSession(volumes[min(seeds)], **options)
    load(first)
    options = {**options, "window": first.window}

    def new_session(volume: Volume) -> SegmentationSession:
        session = SegmentationSession(volume, **options)
        session.use_model(first.load_model())
        return session

    if missing:
        seeds = {**seeds, **carry_seeds(volumes, seeds, new_session, should_stop)}
    for time, volume in enumerate(volumes):
        session = new_session(volume)
        if seeds[time].any():
            session.add_seed_volume(seeds[time])
        yield time, session


def propagate_series(
    volumes: Sequence[Volume],
    seeds: Mapping[int, Labels],
    *,
    carry: bool = False,
    **options: Any,
) -> Labels:
    """Propagate the seeds of a time series through all of its volumes.

    Parameters
    ----------
    volumes, seeds, carry, **options
        See `series_sessions`.

    Returns
    -------
    ndarray of unsigned int, shape (T, I, J, K)

    Raises
    ------
    PromptError
        See `series_sessions`.
    """
    found = []
    for _, session in series_sessions(volumes, seeds, carry=carry, **options):
        if session.prompts.labels:
            for _ in session.propagate():
                pass
        found.append(np.array(session.labels))
    return np.stack(found)
