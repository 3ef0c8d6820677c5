"""The house: what is public, what importing it loads, and which module may know which."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import moa_graph

PACKAGE = Path(moa_graph.__file__).parent
NOT_LOADED = ["openai", "langchain_openai", "langchain_together", "langchain.chat_models", "typer", "rich", "yaml"]

LEVELS = [
    {"errors", "folders", "money", "state", "prompts", "policy", "limit", "loops", "completions", "transport"},
    {
        "within",
        "answers",
        "documents",
        "extract",
        "flops",
        "prices",
        "remote",
        "retry",
        "budget",
        "receipt",
        "similarity",
        "verdicts",
    },
    {"models", "bill", "events", "fit", "review", "run", "waiting", "testing", "local", "stats"}
    | {"interval", "questions"},
    {"panel"},
    {"asking", "reading", "estimate", "roles"},
    {"steps"},
    {"judging"},
    {"admission", "aggregator", "critique", "route", "select", "stop"},
    {"nodes"},
    {"deciding", "final"},
    {"picking", "windows"},
    {"graph", "described"},
    {"config"},
    {"advice", "chat_answer", "chat_run"},
    {"choose", "form", "contenders"},
    {"outlook", "standing"},
    {"chat_model", "compare", "studio", "boxes", "draw"},
    {"cli", "eval"},
]


def test_all_is_sorted_and_true() -> None:
    """`__all__` has each public name once, in order, and each of them is there."""
    assert moa_graph.__all__ == sorted(set(moa_graph.__all__))
    for name in moa_graph.__all__:
        assert getattr(moa_graph, name) is not None
    assert set(moa_graph.__all__) <= set(dir(moa_graph))


def run(script: str) -> list[str]:
    """The words that a fresh process prints."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_nothing_else_is_public() -> None:
    """In a fresh process, the package's own names are those of `__all__`, modules apart."""
    found = run("import moa_graph; print(*dir(moa_graph))")
    modules = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    helpers = {"Any", "TYPE_CHECKING", "import_module"}
    assert {name for name in found if not name.startswith("_")} - modules - helpers == set(moa_graph.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as in any module."""
    with pytest.raises(AttributeError, match="create_mao"):
        moa_graph.create_mao  # noqa: B018


def test_every_module_says_what_it_exports() -> None:
    """Each module's `__all__` is sorted and true."""
    for path in PACKAGE.glob("*.py"):
        if path.stem in ("__init__", "__main__"):
            continue
        module = __import__(f"moa_graph.{path.stem}", fromlist=["x"])
        assert isinstance(module, ModuleType)
        names = module.__all__
        assert sorted(names) == sorted(set(names)), path.name
        assert [name for name in names if not hasattr(module, name)] == [], path.name


def test_importing_loads_no_provider_and_no_command_line() -> None:
    """What costs time to load is loaded when it is used."""
    assert run(f"import sys, moa_graph; print(*(m for m in {NOT_LOADED!r} if m in sys.modules))") == []


def test_a_mixture_loads_little_more_than_langgraph() -> None:
    """`create_moa` needs no provider, and no command line that LangGraph does not load by itself."""
    loaded = f"print(*(m for m in {NOT_LOADED} if m in sys.modules))"
    ours = run(f"import sys; from moa_graph import create_moa, Proposer; {loaded}")
    assert set(ours) <= set(run(f"import sys, langgraph.graph; {loaded}"))


def test_scoring_loads_no_mixture() -> None:
    """What reads an evaluation's files needs none of what asks models, which takes a second to load."""
    heavy = ["langgraph", "langchain_core", "pydantic", "moa_graph.config"]
    script = "import sys, moa_graph.eval.score, moa_graph.eval.analyses, moa_graph.eval.report"
    assert run(f"{script}; print(*(m for m in {heavy!r} if m in sys.modules))") == []


def imports(path: Path) -> set[str]:
    """The modules of ours that a module imports when it is loaded (not within functions or for types only)."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "moa_graph":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("moa_graph.")}
    return {name for name in found if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


GRAPH: dict[str, set[str]] = {}
for source in PACKAGE.rglob("*.py"):
    if source.name != "__init__.py" or source.parent != PACKAGE:
        GRAPH.setdefault(module_of(source), set()).update(imports(source) - {module_of(source)})


def test_imports_go_round_in_no_circle() -> None:
    """The modules can be put in a line where each imports only those before it."""
    assert len(list(TopologicalSorter(GRAPH).static_order())) >= len(GRAPH)


@pytest.mark.parametrize("module", sorted(GRAPH.keys() & set().union(*LEVELS)))
def test_a_module_imports_nothing_above_it(module: str) -> None:
    """errors, state, prompts, policy <- models, receipt <- panel <- nodes <- graph <- config <- what people use."""
    level = next(k for k, names in enumerate(LEVELS) if module in names)
    above = set().union(*LEVELS[level + 1 :])
    assert GRAPH[module] & above == set()
    if level == 0:
        assert GRAPH[module] <= LEVELS[0]


def test_every_module_has_its_test() -> None:
    """A test file mirrors each module."""
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    ours = {"errors", "graph", "models", "panel", "policy", "prompts", "receipt", "retry", "state", "testing"}
    assert ours | {"answers", "remote", "transport", "completions", "events", "review"} <= tests
