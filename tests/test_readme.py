"""The README and the pages beside it are true."""

import re
from pathlib import Path

import pytest
import yaml

from moa_graph import MoAConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, capsys):
    """A page's Python blocks run as they stand, one after the other, and print what their comments say."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    promised = re.findall(r"^print\(.*\)  # (.*?)(?::.*)?$", "".join(blocks), re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == promised


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mixtures_in_yaml_are_mixtures(page):
    """A page's YAML blocks that describe a whole mixture describe one."""
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        described = yaml.safe_load(block)
        if {"proposers", "aggregator"} <= described.keys():
            assert MoAConfig(**described).models()


def test_files_exist():
    """Every file that the README's map names is there, and no module is missing from it."""
    named = set(re.findall(r"`([a-z_]+\.py|[a-z_]+/)`", PAGES[0].read_text(encoding="utf-8")))
    there = {path.name + "/" * path.is_dir() for path in (ROOT / "moa_graph").iterdir()}
    ours = {name for name in there if not name.startswith("__")} - {"py.typed"}
    assert named == ours


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Every link to a file leads to a file."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
