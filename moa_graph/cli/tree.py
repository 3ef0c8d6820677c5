"""A picture of a run: its layers, who is asked in each, and how it goes. Made from the run's events."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from moa_graph.cli.terminal import safe
from moa_graph.errors import clean

__all__ = ["Tree", "decided"]

_MARKS: Final = {
    "waiting": ("·", "dim"),
    "ok": ("✓", "green"),
    "error": ("✗", "red"),
    "timeout": ("✗", "red"),
    "cut": ("-", "yellow"),
    "stopped": ("-", "yellow"),
    "unasked": ("·", "dim"),
    "decided": ("»", "cyan"),
}
_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass
class Member:
    """Somebody who is asked. `state`: waiting, asked, or how it ended."""

    name: str
    state: str = "waiting"
    said: str = ""
    began: float = 0.0

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "asked")

    def start(self) -> None:
        self.state, self.began = "asked", time.monotonic()

    def end(self, state: str, said: str) -> None:
        self.state, self.said = state, said

    @property
    def tells(self) -> str:
        if self.state != "asked":
            return self.said or self.state
        return f"{time.monotonic() - self.began:.1f} s" + (f", {self.said}" if self.said else "")

    @property
    def mark(self) -> tuple[str, str]:
        return _MARKS.get(self.state) or (_SPINNER[int(time.monotonic() * 10) % len(_SPINNER)], "cyan")


@dataclass
class Panel:
    """A layer: its members in declared order, and what is told of it as a whole."""

    name: str
    members: list[Member] = field(default_factory=list)
    said: str = ""
    steps: list[Member] = field(default_factory=list)
    """What was decided beside the answers, as it came."""

    @property
    def begun(self) -> bool:
        return any(member.state != "waiting" for member in self.members)

    @property
    def done(self) -> bool:
        return all(member.ended for member in self.members)

    def lines(self, width: int, *, whole: bool) -> list[Text]:
        """The layer's lines; `whole`: reasons in full, over several lines where they are long."""
        rows = [
            *(s for s in self.steps if s.name == "route"),
            *self.members,
            *(s for s in self.steps if s.name != "route"),
        ]
        longest = max((cell_len(safe(row.name)) for row in rows), default=0)
        room = min(longest, max(12, width * 2 // 5))
        drawn = [self._head()]
        for row in rows:
            drawn += _drawn(row, room, width, last=row is rows[-1], whole=whole)
        return drawn

    def decide(self, step: str, chosen: Sequence[str], said: str) -> None:
        """A step has decided; of a route, whom it did not choose is not asked."""
        self.steps.append(Member(step, "decided", said))
        for member in self.members if step == "route" else ():
            if member.name not in chosen:
                member.end("unasked", "not asked")

    def _head(self) -> Text:
        return Text.assemble((self.name, "bold"), (f"  {self.said}" if self.said else "", "dim"))

    def line(self) -> Text:
        """The layer in one line."""
        answered = sum(member.state == "ok" for member in self.members)
        asked = sum(member.state != "unasked" for member in self.members)
        said = f"{answered} of {asked} answered" if self.begun else f"{len(self.members)} waiting"
        return Text.assemble((self.name, "bold"), (f"  {self.said or said}", "dim"))


def _drawn(member: Member, room: int, width: int, *, last: bool, whole: bool) -> list[Text]:
    name = safe(member.name)
    if cell_len(name) > room:
        name = f"{set_cell_size(name, room - 1)}…"
    mark, style = ("→", "cyan") if whole and not member.ended else member.mark
    said = safe(" ".join((member.said if whole else member.tells).split()))
    beside = 5 + room + 2
    parts = _folded(said, width - beside) if whole else [said]
    lines = []
    for k, part in enumerate(parts):
        guide = ("└─ " if last else "├─ ") if not k else "   " if last else "│  "
        shown = (f"{mark} ", style), set_cell_size(name if not k else "", room)
        head = shown if not k else ("  ", shown[1])
        lines.append(Text.assemble((guide, "dim"), *head, "  ", (part, "dim")))
    return lines


def _folded(said: str, width: int) -> list[str]:
    from rich.console import Console

    return [str(line).rstrip() for line in Text(said).wrap(Console(), max(10, width))]


class Tree:
    """The layers of a run and their proposers, in declared order, and the final model with its fallbacks."""

    def __init__(self, panels: Sequence[Sequence[str]], final: str) -> None:
        self._panels = [Panel(f"layer {i}", [Member(name) for name in names]) for i, names in enumerate(panels, 1)]
        self._final = Panel("final model", [Member(final)])
        self._run: str | None = None

    def known(self, proposals: Sequence[Mapping[str, Any]]) -> None:
        """What an earlier run of the thread has: it is not asked again."""
        for proposal in proposals:
            if proposal["status"] == "ok" and (member := self._member(proposal)):
                member.end("ok", "answered before")

    def take(self, event: Mapping[str, Any]) -> str | None:
        """Take in an event. Gives the line that tells of it, where somebody's part has ended."""
        self._run = self._run or event.get("run")
        kind = str(event.get("type", "")).removeprefix("moa.")
        if event.get("run") != self._run:
            return None  # a mixture within this one
        if kind == "layer_done":
            said = f"{event['answered']} of {event['asked']} answered, {event['seconds']:.1f} s"
            self._panels[event["layer"] - 1].said = said
        elif kind == "layer_left_out":
            self._panels[event["layer"] - 1].said = "left out"
            return f"layer {event['layer']} is left out: {event['why']}"
        elif kind == "decided" and event["step"] == "aggregator":
            self._final.said = event["said"]
            return f"{event['by']}: {event['said']}"
        elif kind == "decided":
            self._panels[event["layer"] - 1].decide(event["step"], event["chosen"], event["said"])
            return decided(event)
        elif kind == "final_started":
            return self._final_started(event)
        elif kind == "done":
            before = len(self._final.members) - 1  # the receipt counts the requests of those that failed too
            call = event["receipt"]["final"]
            self._final.members[-1].end("ok", _said({**call, "attempts": call["attempts"] - before}))
        elif kind.startswith("proposer_") and (member := self._member(event)):
            return self._proposer(kind, event, member)
        return None

    def answering(self) -> None:
        """The final model's first words are there."""
        final = self._final.members[-1]
        if final.state == "asked" and not final.said:
            final.said = f"first words after {final.tells}"

    def stop(self, failed: bool) -> None:
        """The run ends before its time: it failed, or somebody stopped it."""
        for panel in [*self._panels, self._final]:
            for member in panel.members:
                if member.state == "asked":
                    why, state = ("failed", "error") if failed and panel is self._final else ("stopped", "stopped")
                    member.end(state, f"{why} after {time.monotonic() - member.began:.1f} s")

    def picture(self, width: int, height: int) -> Text:
        """All of it, as far as it fits; what is at work goes before what waits and what is done."""
        panels = [*self._panels, self._final]
        short: set[int] = set()
        waiting = [k for k, panel in enumerate(panels) if not panel.begun and len(panel.members) > 1]
        done = [k for k, panel in enumerate(panels) if panel.begun and panel.done]
        order = [*reversed(waiting), *done]
        while (lines := _lines(panels, short, width)) and len(lines) > height and order:
            short.add(order.pop(0))
        if len(lines) > height:
            lines = [*lines[: height - 1], Text(f"… {len(lines) - height + 1} more", "dim")]
        return Text("\n", no_wrap=True, overflow="ellipsis").join(lines)

    def whole(self, width: int) -> Text:
        """What has been asked, every reason in full."""
        begun = [panel for panel in [*self._panels, self._final] if panel.begun]
        return Text("\n").join(line for panel in begun for line in panel.lines(width, whole=True))

    def _member(self, told: Mapping[str, Any]) -> Member | None:
        panel = self._panels[told["layer"] - 1].members if told["layer"] <= len(self._panels) else []
        return panel[told["slot"] - 1] if told["slot"] <= len(panel) else None

    def _proposer(self, kind: str, event: Mapping[str, Any], member: Member) -> str | None:
        if kind == "proposer_started":
            member.start()
        elif kind == "proposer_first_token":
            member.said = f"first token after {event['seconds']:.1f} s"
        else:
            member.end(event["status"], _said(event, cached=kind == "proposer_cached"))
            return f"layer {event['layer']}, {member.name}: {member.said}"
        return None

    def _final_started(self, event: Mapping[str, Any]) -> str | None:
        last, told = self._final.members[-1], None
        if "error" in event and last.state == "asked":
            last.end("error", clean(event["error"].removeprefix(f"{last.name}: ")))
            told = f"final model, {last.name}: {last.said}; asking {event['model']}"
            self._final.members.append(last := Member(event["model"]))
        last.name = event["model"]
        last.start()
        return told


def decided(told: Mapping[str, Any]) -> str:
    """A decision in one line."""
    by = f" ({told['by']})" if told["by"] != told["step"] else ""
    return f"layer {told['layer']}, {told['step']}{by}: {told['said']}"


def _lines(panels: Sequence[Panel], short: set[int], width: int) -> list[Text]:
    whole = [[panel.line()] if k in short else panel.lines(width, whole=False) for k, panel in enumerate(panels)]
    return [line for lines in whole for line in lines]


def _said(told: Mapping[str, Any], *, cached: bool = False) -> str:
    """How it went, in a few words."""
    if told["status"] == "cut":
        return str(told.get("error", "cut"))
    if told["status"] != "ok":
        return f"{told.get('error', told['status'])} ({told['seconds']:.1f} s)"
    tokens, again = told["usage"].get("output_tokens"), told["attempts"]
    said = ["cached" if cached or told.get("cached") else f"{told['seconds']:.1f} s"]
    said += [f"{tokens:,} token{'s' * (tokens != 1)}"] if tokens else []
    return ", ".join(said + ([f"{again} attempts"] if again > 1 else []))
