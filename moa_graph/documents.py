"""YAML as it is meant: a key that stands in a mapping twice is an error, where YAML's own readers take the last."""

from collections.abc import Iterator
from typing import Any, Final

from moa_graph.errors import MoAConfigError, clean

__all__ = ["read_yaml"]

_MERGE: Final = "tag:yaml.org,2002:merge"  # `<<`


def read_yaml(text: str, where: str) -> Any:
    """What a YAML document holds; `None`: nothing. Raises MoAConfigError, beginning with `where`."""
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        if (root := loader.get_single_node()) is None:
            return None
        for key, first, again in _twice(root, (), set()):
            lines = f"lines {first} and {again}" if first != again else f"line {first}"
            raise MoAConfigError(f"{where}: {key}: this key stands there twice, in {lines}: keep one of them")
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" at line {mark.line + 1}" if mark else ""
        raise MoAConfigError(f"{where}: not YAML{at}: {clean(str(getattr(error, 'problem', error)))}") from error
    finally:
        loader.dispose()


def _twice(node: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """Keys that are in a mapping already, with their lines. `seen`: what an alias may lead to once more."""
    if id(node) in seen or node.id == "scalar":
        return
    seen.add(id(node))
    if node.id == "sequence":
        for k, value in enumerate(node.value, 1):
            yield from _twice(value, (*path, str(k)), seen)
        return
    lines = dict[tuple[str, str], int]()
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if key.id == "scalar" and key.tag != _MERGE:
            if (first := lines.get((key.tag, name))) is not None:
                yield ".".join((*path, name)), first, line
            lines[key.tag, name] = line
        yield from _twice(value, (*path, name), seen)
