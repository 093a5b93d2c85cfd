"""Jobs of `batch` from tables, patterns and options, read as the commands read theirs."""

from __future__ import annotations

import difflib
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from napari_slmsam2.batch.jobs import Job
from napari_slmsam2.batch.patterns import Match, fill_in, find_files, match_of
from napari_slmsam2.batch.table import Row, read_table
from napari_slmsam2.cli._batch_commands import COMMANDS, BatchCommand
from napari_slmsam2.core.errors import ConfigError

#: Options that `batch` has itself, and those that do not change a result.
_OF_BATCH = frozenset({"quiet", "progress", "force"})
_NO_SETTINGS = frozenset(
    {
        "log",
        "models_folder",
        "device",
        "keep_partial",
        "resume",
        "checkpoint",
        "estimate",
        "embedding_budget",
        "embedding_disk",
    }
)


def make_jobs(name: str, words: Sequence[str], table: Path | None, *, force: bool) -> list[Job]:
    """The jobs of a batch.

    Parameters
    ----------
    name : str
        Of the command.
    words : sequence of str
        Options of the command that all jobs have; values may hold placeholders.
    table : Path or None
        A row per job. Without it, one of the options has a pattern of files.
    force : bool
        Whether existing outputs are replaced.

    Raises
    ------
    ConfigError
        An option, a row or a column cannot be used; the message names it.
    """
    parser = _Parser(name)
    common = parser.read_options(words)
    rows = [] if table is None else read_table(table)
    cases = parser.from_table(rows, common) if table else parser.from_pattern(common)
    if not cases:
        raise ConfigError(f"--table {table}", "has no jobs", expected="at least one row")
    batch = secrets.token_hex(8)
    return [
        parser.job(number, where, values, batch=batch, force=force)
        for number, (where, values) in enumerate(cases, 1)
    ]


class _Parser:
    """Reads the options of one command."""

    def __init__(self, name: str) -> None:
        from napari_slmsam2.cli import app

        self._name = name
        self._spec = COMMANDS[name]
        group: Any = typer.main.get_command(app)
        self._command = group.commands[name]
        self._params = {p.name: p for p in self._command.params if p.name not in _OF_BATCH}
        self._by_word = _words_of(self._params, self._spec)

    def read_options(self, words: Sequence[str]) -> dict[str, list[str]]:
        """Values by parameter of options of the command line."""
        found: dict[str, list[str]] = {}
        left = list(words)
        while left:
            word, equals, value = left.pop(0).partition("=")
            if not word.startswith("-"):
                raise ConfigError(
                    word,
                    f"is no option of {self._name}",
                    hint="Quote patterns, so that the shell leaves them as they are.",
                )
            param = self._find(word, word)
            if getattr(param, "is_flag", False):
                found[param.name] = ["false" if word in param.secondary_opts else "true"]
                continue
            count = 1 if equals or param.name != "pair" else 2
            values = [value] if equals else left[:count]
            if len(values) < count:
                raise ConfigError(word, "has no value")
            del left[: 0 if equals else count]
            found[param.name] = (found.get(param.name, []) if _is_list(param) else []) + values
        return found

    def from_table(
        self, rows: Sequence[Row], common: Mapping[str, list[str]]
    ) -> list[tuple[str, dict[str, list[str]]]]:
        """Where each job was specified, and its values."""
        cases = []
        for row in rows:
            cells: dict[str, list[str]] = {}
            for column, cell in row.values.items():
                param = self._find(column, f"{row.where}, column {column}")
                cells[param.name] = _values(param, cell, f"{row.where}, column {column}")
            first = cells.get(self._spec.each) or common.get(self._spec.each)
            match = match_of(Path(first[0])) if first else None
            values = {n: self._filled(n, v, match) for n, v in common.items() if n not in cells}
            cases.append((row.where, {**values, **cells}))
        return cases

    def from_pattern(
        self, common: Mapping[str, list[str]]
    ) -> list[tuple[str, dict[str, list[str]]]]:
        """As `from_table`, for every file that fits the pattern."""
        each = self._spec.each
        option = self._option(each)
        given = common.get(each)
        if not given:
            raise ConfigError(
                f"{option}s",
                "is missing",
                expected=f"a pattern such as {option}s 'scans/*.nii.gz', or --table FILE",
            )
        matches = find_files(given[0])
        if not matches:
            raise ConfigError(f"{option}s {given[0]}", "matches no file")
        others = {name: values for name, values in common.items() if name != each}
        return [
            (
                str(match.path),
                {
                    each: [str(match.path), *self._filled(each, given[1:], match)],
                    **{n: self._filled(n, v, match) for n, v in others.items()},
                },
            )
            for match in matches
        ]

    def job(
        self, number: int, where: str, values: dict[str, list[str]], *, batch: str, force: bool
    ) -> Job:
        """A job from its values, checked as its command would."""
        params = self._checked(where, values)
        absolute = {n: self._absolute(n, v, params.get(n)) for n, v in values.items()}
        params = self._checked(where, absolute)
        spec = self._spec
        outputs = {
            self._option(name): self._output(name, params)
            for name in spec.outputs
            if params[name] is not None
        }
        if not outputs:
            raise ConfigError(where, f"writes no file: {self._option(spec.outputs[0])} is missing")
        files = {*spec.inputs, *spec.outputs, spec.model}
        return Job(
            number,
            where,
            (self._name, *self._words(absolute)),
            {
                self._option(name): _paths(params[name])
                for name in spec.inputs
                if params[name] is not None
            },
            outputs,
            {
                self._option(name): " ".join(v)
                for name, v in absolute.items()
                if name not in files | _NO_SETTINGS and v != [str(self._params[name].default)]
            },
            self._model(params),
            params.get("models_folder"),
            batch,
            force,
        )

    def _checked(self, where: str, values: Mapping[str, list[str]]) -> dict[str, Any]:
        """The values as the command gets them."""
        try:
            context = self._command.make_context(self._name, self._words(values))
        except typer.BadParameter as error:
            name = getattr(error.param, "name", None) or ""
            problem = (error.message or "is missing").removesuffix(".")
            raise ConfigError(f"{where}, column {self._option(name)}", problem) from error
        params: dict[str, Any] = context.params
        return params

    def _words(self, values: Mapping[str, list[str]]) -> list[str]:
        """The command line of some values."""
        options, arguments = [], []
        for name, param in self._params.items():
            given = values.get(name)
            if given is None:
                continue
            if param.param_type_name == "argument":
                arguments += given
            elif getattr(param, "is_flag", False):
                options += (param.opts if given == ["true"] else param.secondary_opts)[:1]
            elif name == "pair":
                for first in range(0, len(given), 2):
                    options += [param.opts[0], *given[first : first + 2]]
            else:
                options += [word for value in given for word in (param.opts[0], value)]
        return [*options, *(["--", *arguments] if arguments else [])]

    def _find(self, word: str, where: str) -> Any:
        """The parameter of a column or an option."""
        key = word.strip()
        if key not in self._by_word and not key.startswith("-"):
            key = key.lower().replace("-", "_")
        if key in self._by_word:
            return self._by_word[key]
        own = any(key.lstrip("-") == name for name in _OF_BATCH)
        names = [w.removeprefix("--") for w in self._by_word if w.startswith("--")]
        near = difflib.get_close_matches(word.lstrip("-"), names, n=3, cutoff=0.5)
        raise ConfigError(
            where,
            "is an option of the whole batch" if own else f"is no option of {self._name}",
            expected=None if own else " | ".join(near or names),
        )

    def _option(self, name: str) -> str:
        """The option or the argument of a parameter, for messages."""
        param = self._params.get(name)
        return f"--{name}" if param is None or param.opts == [name] else str(param.opts[0])

    def _filled(self, name: str, values: Sequence[str], match: Match | None) -> list[str]:
        if match is None:
            return list(values)
        return [fill_in(value, match.placeholders, self._option(name)) for value in values]

    def _absolute(self, name: str, values: list[str], parsed: Any) -> list[str]:
        """Values that do not depend on the current folder, which workers may not have."""
        from napari_slmsam2.engine.weights.registry import is_weights_file

        is_file = name == self._spec.model and is_weights_file(values[0])
        if is_file or isinstance(parsed, Path) or name == "pair":
            return [str(Path(value).absolute()) for value in values]
        return values

    def _output(self, name: str, params: Mapping[str, Any]) -> Path:
        from napari_slmsam2.engine.weights.local_models import SUFFIX
        from napari_slmsam2.engine.weights.model_card import models_folder

        if name == "name":
            folder = models_folder(params["models_folder"])
            folder.mkdir(parents=True, exist_ok=True)
            return folder / f"{params[name]}{SUFFIX}"
        return Path(params[name])

    def _model(self, params: Mapping[str, Any]) -> str | None:
        if self._name == "adapt":
            from napari_slmsam2.training.recipes import get_recipe

            return params["base"] or get_recipe(params["recipe"]).base
        return params[self._spec.model] if self._spec.model else None


def _words_of(params: Mapping[str, Any], spec: BatchCommand) -> dict[str, Any]:
    """Parameters by all words that may name them: columns and options."""
    found: dict[str, Any] = {}
    arguments = [p for p in params.values() if p.param_type_name == "argument"]
    options = [p for p in params.values() if p.param_type_name != "argument"]
    for param in options:
        found.update(dict.fromkeys((*param.opts, *param.secondary_opts), param))
        names = (param.name, *(o.lstrip("-").replace("-", "_") for o in param.opts if o[1] == "-"))
        found.update(dict.fromkeys(names, param))
    for param in arguments:
        found[param.name] = param
        found.setdefault(f"--{param.name}", param)
    found[f"--{spec.each}s"] = params[spec.each]
    return found


def _is_list(param: Any) -> bool:
    return bool(param.multiple)


def _values(param: Any, cell: Any, where: str) -> list[str]:
    """The values of a cell: text as in a shell where an option may be repeated, or JSON."""
    if getattr(param, "is_flag", False):
        text = str(cell).lower()
        known = {"true": "true", "yes": "true", "1": "true"}
        known |= {"false": "false", "no": "false", "0": "false"}
        if text not in known:
            raise ConfigError(where, "is neither true nor false", found=repr(cell))
        return [known[text]]
    if isinstance(cell, list):
        flat = [x for item in cell for x in (item if isinstance(item, list) else [item])]
        if not _is_list(param):
            raise ConfigError(where, "has several values", expected="one", found=cell)
        return [str(item) for item in flat]
    if isinstance(cell, dict):
        raise ConfigError(where, "cannot be read", expected="text, a number or a list", found=cell)
    if not _is_list(param):
        return [str(cell)]
    words = shlex.shlex(str(cell), posix=True, punctuation_chars=False)
    words.whitespace_split, words.escape, words.commenters = True, "", ""
    try:
        return list(words)
    except ValueError as error:
        raise ConfigError(where, f"cannot be read: {error}", found=cell) from error


def _paths(value: Any) -> tuple[Path, ...]:
    """The files of an option, which may be a list of pairs."""
    if isinstance(value, list | tuple):
        return tuple(path for item in value for path in _paths(item))
    return (Path(value),)
