"""A task of inspect_ai: the file that it is in, what it is called with, and the samples that it asks."""

import ast
import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moa_graph.errors import MoAConfigError, MoAError, clean, describe
from moa_graph.eval.inspect_logs import item_of
from moa_graph.eval.items import Item

__all__ = ["arguments", "digest", "errors_of", "items_of"]


def digest(task: str) -> str | None:
    """Of the file that a task is in; `None`: it is in none, as a registered one."""
    file = _file(task)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file else None


def _file(task: str) -> Path | None:
    places = map(Path, (task, task.rpartition("@")[0]))
    return next((place for place in places if place.is_file()), None)


def arguments(given: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` as `inspect eval -T` reads it: YAML, with commas a list. Raises MoAConfigError."""
    if not given:
        return {}  # to load inspect_ai takes seconds
    from inspect_ai._util.config import parse_cli_args
    from yaml import YAMLError

    for one in given:
        if not one.partition("=")[0] or "=" not in one:
            raise MoAConfigError(f"-T {one}: this is no parameter of a task: write it as KEY=VALUE")
    try:
        return dict(parse_cli_args(list(given)))
    except YAMLError as error:
        raise MoAConfigError(f"-T: a value is no YAML: {clean(str(error))}") from error


@contextlib.contextmanager
def errors_of(task: str) -> Iterator[None]:
    """Raises what inspect_ai finds wrong as MoAConfigError. What it prints goes to standard error."""
    from inspect_ai._util.error import PrerequisiteError
    from rich.text import Text

    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except PrerequisiteError as error:
        why = Text.from_markup(str(error.message)).plain
        raise MoAConfigError(f"inspect_ai, {task}: {clean(why)}") from error


def items_of(
    task: str, args: Mapping[str, Any], model: Any, roles: Mapping[str, Any], *, limit: int | None, shuffle: int | None
) -> list[Item]:
    """What a task is going to ask, in the order of the files of an evaluation: an epoch is a turn.

    Raises MoAConfigError: there is no such task, it takes no such parameter, it has no scorer; MoAError where its own
    code fails.
    """
    from inspect_ai._eval.eval import eval_resolve_tasks
    from inspect_ai._util.error import PrerequisiteError
    from inspect_ai.model import GenerateConfig

    _check_syntax(task)
    with errors_of(task):
        try:
            loaded, _, _ = eval_resolve_tasks(
                task, dict(args), [model], dict(roles), GenerateConfig(), approval=None, sandbox=None,
                sample_shuffle=shuffle,
            )  # fmt: skip
        except TypeError as error:
            raise MoAConfigError(f"{task}: {clean(str(error))} (-T KEY=VALUE gives a parameter)") from error
        except (PrerequisiteError, MoAError):
            raise
        except Exception as error:
            raise MoAError(f"{task} cannot be loaded: {describe(error)}") from error
    if not loaded:
        raise MoAConfigError(f"{task}: inspect_ai finds no task there: give a registered name, FILE.py or FILE.py@TASK")
    if unknown := set(args).difference(*(one.task_args for one in loaded)):
        takes = ", ".join(dict.fromkeys(name for one in loaded for name in _parameters(one.task))) or "none"
        raise MoAConfigError(f"-T {min(unknown)}: {task} has no such parameter; it has {takes}")
    found: list[Item] = []
    for one in loaded:
        if not (one.task.scorer or one.task.metrics):
            raise MoAConfigError(f"{task}: {one.task.name} has no scorer, so there is nothing to compare: give it one")
        name, epochs = one.task.name if len(loaded) > 1 else "", one.task.epochs or 1
        for number, sample in enumerate(list(one.task.dataset)[:limit], 1):
            sample.id = number if sample.id is None else sample.id
            found.append(item_of(sample, name, len(found), epochs))
    return found


def _check_syntax(task: str) -> None:
    """Raises MoAConfigError for a file that is no Python: inspect_ai finds no task in it, and does not say why."""
    if (file := _file(task)) and file.suffix == ".py":
        try:
            ast.parse(file.read_bytes(), file.name)
        except SyntaxError as error:
            raise MoAConfigError(f"{file} is no Python: {clean(str(error))}") from error


def _parameters(task: Any) -> list[str]:
    from inspect_ai._util.registry import registry_info, registry_lookup

    return list(registry_info(registry_lookup("task", registry_info(task).name)).metadata["params"])
