"""Options of `train` and `adapt`, which are made from settings records."""

import pytest
from typer.main import get_command

from napari_slmsam2.cli import app

OPTIONS = {
    "train": {
        "--out": (True, None),
        "--volumes": (False, None),
        "--steps": (False, 5500),
        "--objects": (False, 800),
        "--minutes": (False, None),
        "--batch": (False, 32),
        "--learning-rate": (False, 0.0015),
        "--real-clips": (False, 4352),
        "--synthetic-clips": (False, 1792),
        "--workers": (False, None),
        "--rounds": (False, 3),
        "--feedback": (False, 0.5),
        "--from": (False, None),
        "--device": (False, "auto"),
        "--seed": (False, 0),
    },
    "adapt": {
        "--pair": (True, None),
        "--name": (True, None),
        "--from": (False, None),
        "--recipe": (False, "quick"),
        "--device": (False, "auto"),
        "--minutes": (False, None),
        "--labels": (False, None),
        "--train": (False, None),
        "--labels-are": (False, None),
        "--batch": (False, None),
        "--axis": (False, None),
        "--estimate": (False, False),
        "--checkpoint": (False, None),
        "--report": (False, None),
        "--models-folder": (False, None),
        "--force": (False, False),
    },
}
"""Required or not, and the default value."""


@pytest.mark.parametrize("command", OPTIONS)
def test_options_keep_their_names_and_defaults(command):
    parameters = get_command(app).commands[command].params
    found = {p.opts[0]: (p.required, p.default) for p in parameters}
    assert found == OPTIONS[command]


@pytest.mark.parametrize(
    ("command", "option", "value", "expected"),
    [
        ("train", "--batch", "0", "expected a whole number from 1"),
        ("train", "--seed", "x", "expected a whole number, found 'x'"),
        ("train", "--feedback", "2", "less than or equal to 1"),
        ("adapt", "--train", "nothing", "all or memory+heads or heads or adapters"),
        ("adapt", "--minutes", "0", "greater than or equal to 0.05"),
    ],
)
def test_the_record_limits_the_values(cli, command, option, value, expected):
    required = {"train": ("-o", "x"), "adapt": ("-o", "x", "--pair", "a.nii", "b.nii")}
    refused = cli(command, *required[command], option, value)
    assert refused.code == 2
    assert expected in refused.flat_err
