"""Where a user's files lie."""

import pytest

from moa_graph.folders import cache_folder, config_folder, data_folder

FOLDERS = [
    (cache_folder, "XDG_CACHE_HOME", ".cache"),
    (config_folder, "XDG_CONFIG_HOME", ".config"),
    (data_folder, "XDG_DATA_HOME", ".local/share"),
]


@pytest.mark.parametrize(("folder", "variable", "_"), FOLDERS)
def test_a_folder_is_in_the_one_that_the_variable_names(folder, variable, _, monkeypatch, tmp_path):
    """Each kind of file has the variable of the XDG base directories."""
    monkeypatch.setenv(variable, str(tmp_path))
    assert folder() == tmp_path / "moa_graph"


@pytest.mark.parametrize(("folder", "variable", "usual"), FOLDERS)
@pytest.mark.parametrize("empty", [True, False])
def test_without_the_variable_it_is_the_usual_one(folder, variable, usual, empty, monkeypatch, tmp_path):
    """An empty variable is none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "") if empty else monkeypatch.delenv(variable, raising=False)
    assert folder() == tmp_path / usual / "moa_graph"
