"""Run in an environment that holds the wheel and its core dependencies: it imports, and it works."""

import importlib
import pathlib
import pkgutil

from langchain_core.language_models import FakeListChatModel

import moa_graph
from moa_graph.config import presets

assert "site-packages" in str(pathlib.Path(moa_graph.__file__)), moa_graph.__file__
assert (pathlib.Path(moa_graph.__file__).parent / "py.typed").is_file()
for name in ("report.html", "report.css", "report.js"):
    assert (pathlib.Path(moa_graph.__file__).parent / "eval" / "page" / name).is_file(), name
for module in pkgutil.walk_packages(moa_graph.__path__, "moa_graph."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # inspect_ai's side imports these alone
        if not (module.name.startswith("moa_graph.eval.inspect_") and (error.name or "").startswith("inspect_ai")):
            raise
for name in moa_graph.__all__:
    getattr(moa_graph, name)
assert "local" in presets()
moa = moa_graph.create_moa([FakeListChatModel(responses=["a"])], FakeListChatModel(responses=["b"]), layers=2)
assert moa.invoke({"messages": [("user", "?")]})["messages"][-1].text == "b"
print("the wheel works")
