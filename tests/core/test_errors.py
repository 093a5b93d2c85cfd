"""Errors reach the process that started the one in which they were raised."""

import pickle

import pytest

from napari_slmsam2.batch.engines.slurm import SlurmError
from napari_slmsam2.core import errors
from napari_slmsam2.core.errors import InputError, TimeLimitError


@pytest.mark.parametrize(
    "error",
    [
        *(
            kind("scan.nii", "is damaged", expected=3, found=2, hint="Copy it again.")
            for kind in (InputError, *InputError.__subclasses__())
            if kind.__module__ == errors.__name__
        ),
        TimeLimitError("recipe", "does not fit", minutes=2.5, hint="Allow 3 min."),
        SlurmError("squeue", "has no such job"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
