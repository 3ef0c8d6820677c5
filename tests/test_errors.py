"""The errors, and what they never say."""

import pickle

import pytest

from moa_graph import FinalError, MoAConfigError, MoAError, Proposal, QuorumError
from moa_graph.errors import MoARunError, clean, describe


def test_the_hierarchy() -> None:
    """Built wrong is a ValueError, failed while running a RuntimeError, and neither is the other."""
    assert issubclass(MoAConfigError, MoAError)
    assert issubclass(MoAConfigError, ValueError)
    for error in (QuorumError, FinalError):
        assert issubclass(error, MoARunError)
        assert issubclass(error, RuntimeError)
        assert not issubclass(error, ValueError)


@pytest.mark.parametrize("kind", [QuorumError, FinalError])
def test_a_run_error_keeps_its_proposals_through_pickle(kind: type[MoARunError]) -> None:
    """Answers that were paid for travel with the error, also between processes."""
    told = Proposal(layer=1, slot=1, proposer="a", model="a", status="ok", content="x", seconds=0.1, attempts=1)
    back = pickle.loads(pickle.dumps(kind("too few", [told])))
    assert (type(back), str(back), back.proposals) == (kind, "too few", [told])


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdefghijklmnop",
        "sk-proj-abc_DEF-123456789",
        "sk-ant-api03-abcdefgh",
        "tgp_v1_abcdefghijkl",
        "gsk_abcdefghijkl",
        "xai-abcdefghijkl",
        "hf_abcdefghijkl",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    ],
)
def test_a_key_of_a_known_shape_is_never_shown(secret: str) -> None:
    """Keys that providers put in their error messages are starred out; the rest of the message stays."""
    said = clean(f"Incorrect API key provided: {secret}. Try again")
    assert secret not in said
    assert secret[-8:] not in said
    assert said.startswith("Incorrect API key provided: ")
    assert said.endswith("Try again")


def test_a_bearer_token_is_never_shown() -> None:
    """An Authorization header in a message is starred out, whatever its case."""
    assert clean("sent authorization: bearer abc.def") == "sent authorization: ***"


@pytest.mark.parametrize("name", ["SOME_API_KEY", "MY_TOKEN", "my_secret", "DB_PASSWORD"])
def test_a_secret_of_the_environment_is_never_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What stands in a variable named like a secret is starred out, whatever its shape."""
    monkeypatch.setenv(name, "0f1e2d3c4b5a")
    assert clean("refused 0f1e2d3c4b5a here") == "refused *** here"


def test_a_message_is_one_line_of_bounded_length() -> None:
    """A page of HTML from a proxy becomes one line of 300 characters."""
    said = clean("<html>\n  <body>\n" + "x" * 1000)
    assert said.startswith("<html> <body> x")
    assert (len(said), said[-1]) == (300, "…")


@pytest.mark.parametrize(
    ("error", "said"), [(ValueError("no\nway"), "ValueError: no way"), (TimeoutError(), "TimeoutError")]
)
def test_an_error_is_described_by_type_and_message(error: Exception, said: str) -> None:
    """The type stands before the message, and alone where there is none."""
    assert describe(error) == said
