"""Steps as data: what stands in YAML under `route:`, `select:`, `critique:` and `stop:`.

`select: {top_k: {k: 3, judge: openai:gpt-6-luna}}`; a word alone is a step with its defaults (`select: cluster`),
and for a route or a critique it is its model.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Final

from moa_graph.critique import Critique
from moa_graph.errors import MoAConfigError
from moa_graph.panel import Proposer
from moa_graph.route import Route
from moa_graph.select import Cluster, Diverse, TopK
from moa_graph.stop import Agreement, Judge, Sentinel

__all__ = ["described"]

_STEPS: Final[dict[str, dict[str, type[Any]]]] = {
    kind: {str(step.name): step for step in steps}
    for kind, steps in {
        "route": (Route,), "select": (Cluster, Diverse, TopK), "critique": (Critique,),
        "stop": (Agreement, Judge, Sentinel),
    }.items()
}  # fmt: skip
_MODELS: Final = ("judge", "model")  # fields that hold one


def described(kind: str, given: Any, model: Callable[[Any], Proposer]) -> Any:
    """The step that `given` describes. `model`: what stands where a model is wanted -> a proposer.

    Raises MoAConfigError naming the key and the valid choices.
    """
    step, values = _chosen(kind, given)
    wanted = {field.name: field for field in fields(step) if field.name != "choose"}
    for key in values:
        if key not in wanted:
            raise MoAConfigError(f"{kind}.{key}: unknown key; {_near(str(key), wanted)}")
    needed = [*wanted, "model"] if kind == "route" else wanted
    for key in needed:
        if key not in values and (key == "model" or _required(wanted[key])):
            raise MoAConfigError(f"{kind}.{key}: this key is missing")
    for key in set(_MODELS) & values.keys():
        values[key] = _model(f"{kind}.{key}", values[key], model)
    try:
        return step(**values)
    except MoAConfigError as error:
        raise MoAConfigError(f"{kind}: {error}") from error


def _chosen(kind: str, given: Any) -> tuple[type[Any], dict[str, Any]]:
    steps = _STEPS[kind]
    if isinstance(given, str):
        given = {given: None} if len(steps) > 1 else {"model": given}
    if not isinstance(given, Mapping):
        raise MoAConfigError(f"{kind}: {_example(kind)} is needed, not {given!r}")
    if len(steps) == 1 and not given.keys() & steps.keys():
        return next(iter(steps.values())), dict(given)
    if len(given) != 1:
        raise MoAConfigError(
            f"{kind}: one step is needed, not {', '.join(map(str, given)) or 'none'}: {_example(kind)}"
        )
    [(name, values)] = given.items()
    if name not in steps:
        raise MoAConfigError(f"{kind}.{name}: there is no such step: {_near(str(name), steps)}")
    if not isinstance(values, Mapping | None):
        raise MoAConfigError(f"{kind}.{name}: a mapping is needed, not {values!r}")
    return steps[name], dict(values or {})


def _example(kind: str) -> str:
    return f"a mapping such as {{{next(iter(_STEPS[kind]))}: {{…}}}}, with one of {', '.join(_STEPS[kind])}"


def _near(given: str, valid: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(given, valid, 1)
    return f"{f'did you mean {near[0]}? ' if near else ''}one of {', '.join(sorted(valid))}"


def _required(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _model(where: str, given: Any, model: Callable[[Any], Proposer]) -> Proposer:
    try:
        return model(given)
    except MoAConfigError as error:
        raise MoAConfigError(f"{where}: {error}") from error
