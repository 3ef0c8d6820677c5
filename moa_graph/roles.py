"""Roles: a system prompt for each proposer of a panel, as in SMoA (arXiv 2411.03284)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from moa_graph.errors import MoAConfigError
from moa_graph.panel import Proposer, ProposerLike

__all__ = ["cast_in", "roles"]

T = TypeVar("T")


class _Role(NamedTuple):
    system: str
    name: str | None = None


def roles(models: ProposerLike | Sequence[ProposerLike], given: Sequence[str | Mapping[str, str]]) -> list[Proposer]:
    """Proposers with these system prompts: one model in every role, or as many models as roles, in order.

    A role is a text, or `{"name": …, "system": …}`; its name is then the proposer's. Raises MoAConfigError for
    another number of models, one that has a system prompt already, and what is no role.
    """
    listed: list[Any] = list(models) if isinstance(models, list | tuple) else [models]
    made = [one if isinstance(one, Proposer) else Proposer(one) for one in listed]
    return cast_in(made, given, lambda one, changes: replace(one, **changes))


def cast_in(models: Sequence[T], given: Any, change: Callable[[T, dict[str, Any]], T]) -> list[T]:
    """Those models in those roles, each a changed copy."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise MoAConfigError(f"roles: a list of system prompts is needed, not {given!r}")
    parts, many = [_role(one, k) for k, one in enumerate(given, 1)], len(given)
    everyone: list[Any] = list(models) * many if len(models) == 1 else list(models)
    if len(everyone) != many:
        raise MoAConfigError(f"roles: {many} roles for {len(models)} models: give as many models as roles, or just one")
    for one in models:
        _free(one, many if len(models) == 1 else 1)
    return [
        change(one, {"system": part.system, "samples": 1, **_name(one, part, k if len(models) == 1 < many else 0)})
        for k, (one, part) in enumerate(zip(everyone, parts, strict=True), 1)
    ]


def _role(given: Any, number: int) -> _Role:
    system = given.get("system") if isinstance(given, Mapping) else given
    name = given.get("name") if isinstance(given, Mapping) else None
    unknown = given.keys() - {"name", "system"} if isinstance(given, Mapping) else ()
    if unknown or not isinstance(system, str) or not system.strip() or not isinstance(name, str | None):
        raise MoAConfigError(f"roles.{number}: a system prompt, or a mapping with `name` and `system`, not {given!r}")
    return _Role(system, name)


def _free(one: Any, most: int) -> None:
    if one.system is not None:
        raise MoAConfigError(f"roles: {one.name or one.model} has a system prompt of its own; give it there or here")
    if one.samples not in (1, most):
        raise MoAConfigError(f"roles: {one.name or one.model} has {one.samples} samples, and {most} roles")


def _name(one: Any, part: _Role, number: int) -> dict[str, Any]:
    if part.name is not None:
        return {"name": part.name}
    return {"name": f"{one.name}-{number}"} if one.name and number else {}
