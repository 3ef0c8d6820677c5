"""The packages of the extra `eval`, imported when they are used."""

from importlib import import_module
from types import ModuleType
from typing import Final

from moa_graph.errors import MoAConfigError

__all__ = ["INSTALL", "load"]

INSTALL: Final = 'pip install "moa-graph[eval]"'


def load(module: str) -> ModuleType:
    """A module of one of these packages, such as "sklearn.metrics". Raises MoAConfigError where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise MoAConfigError(f"{missing} is not installed, which the evaluation needs: {INSTALL}") from error
