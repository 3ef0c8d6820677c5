"""The README is true."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_python_blocks_run(capsys):
    """The README's Python blocks run as they stand, one after the other, and print what their comments say."""
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(block, names)  # noqa: S102
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"^print\(.*\)  # (.*?)(?::.*)?$", "".join(BLOCKS), re.MULTILINE)
    assert printed == promised


def test_files_exist():
    """Every file that the README's map names is there."""
    for name in re.findall(r"`([a-z_]+\.py|[a-z_]+/)`", README):
        assert (Path(__file__).parent.parent / "moa_graph" / name).exists(), name
