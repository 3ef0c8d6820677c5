"""Where a user's files lie: the XDG base directories, each with a folder of ours."""

import os
from pathlib import Path

__all__ = ["cache_folder", "config_folder", "data_folder"]


def cache_folder() -> Path:
    """What can be made or fetched again: `$XDG_CACHE_HOME/moa_graph`, else `~/.cache/moa_graph`."""
    return _folder("XDG_CACHE_HOME", "~/.cache")


def config_folder() -> Path:
    """What the user writes: `$XDG_CONFIG_HOME/moa_graph`, else `~/.config/moa_graph`."""
    return _folder("XDG_CONFIG_HOME", "~/.config")


def data_folder() -> Path:
    """What is to be kept: `$XDG_DATA_HOME/moa_graph`, else `~/.local/share/moa_graph`."""
    return _folder("XDG_DATA_HOME", "~/.local/share")


def _folder(variable: str, otherwise: str) -> Path:
    return Path(os.environ.get(variable) or os.path.expanduser(otherwise)) / "moa_graph"  # Path's own may raise
