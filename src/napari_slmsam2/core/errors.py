"""The package's exceptions.

None derives from ``RuntimeError``: a generator that runs in a napari worker and raises a
``RuntimeError`` ends without emitting ``errored`` or ``finished``.
"""

from __future__ import annotations

from typing import Any


class SlmSam2Error(Exception):
    """Base of every error that this package raises on purpose.

    It can be pickled, whatever the parameters of its class are: errors of worker processes reach
    the process that started them.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    kind: type[SlmSam2Error], args: tuple[Any, ...], details: dict[str, Any]
) -> SlmSam2Error:
    error = kind.__new__(kind, *args)
    error.__dict__.update(details)
    return error


class SlmSam2Warning(UserWarning):
    """Something was done, but not completely or not as expected."""


class InputError(SlmSam2Error):
    """Something the user gave cannot be used.

    Parameters
    ----------
    what : str
        The file, layer, option or field, as the user knows it.
    problem : str
        What is wrong with it.
    expected, found : object, optional
        Both ends of the mismatch.
    hint : str, optional
        What to do about it.
    """

    def __init__(
        self,
        what: str,
        problem: str,
        *,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        parts = [f"{what}: {problem}"]
        if expected is not None:
            parts.append(f"expected {expected}")
        if found is not None:
            parts.append(f"found {found}")
        message = "; ".join(parts) + "."
        if hint:
            message += f" {hint}"
        super().__init__(message)
        self.what = what
        self.problem = problem
        self.expected = expected
        self.found = found
        self.hint = hint


class VolumeError(InputError):
    """An image or label volume cannot be read or used."""


class GridMismatchError(VolumeError):
    """Two volumes that must share one grid do not."""


class PromptError(InputError):
    """A seed, point, box or extent does not fit the volume or the model."""


class ConfigError(InputError):
    """A setting is outside its range or contradicts another one."""


class TimeLimitError(ConfigError):
    """The time that was allowed is too short.

    Parameters
    ----------
    what, problem, expected, found, hint : optional
        See `InputError`.
    minutes : float
        Time that is enough.
    """

    def __init__(self, what: str, problem: str, *, minutes: float, **details: Any) -> None:
        super().__init__(what, problem, **details)
        self.minutes = minutes


class OutputError(InputError):
    """A result cannot be written where the user asked for it."""


class CheckpointError(InputError):
    """A file does not hold the weights that the model needs."""


class DownloadError(InputError):
    """Model weights could not be downloaded or failed their verification."""


class SessionFileError(InputError):
    """A session file cannot be read, or does not belong to the image or model at hand."""


class DeviceError(InputError):
    """The requested device is missing or cannot do the work."""


class DeviceMemoryError(DeviceError):
    """The device has not enough memory, also after every fallback."""
