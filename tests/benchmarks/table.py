"""One measurement per row, each beside what it stands over; a limit is a ratio that must not be exceeded."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

DIGITS = {"s": 3, "ms": 1, "KB": 0}


@dataclass(frozen=True)
class Row:
    """What was measured; `limit` None: told, and not judged.

    `floor` is one number, or one for each measurement, of the same round: then the ratio is the median of theirs.
    """

    what: str
    times: Sequence[float]
    floor: float | Sequence[float]
    limit: float | None = None
    unit: str = "s"

    @property
    def median(self) -> float:
        return median(self.times)

    @property
    def floors(self) -> Sequence[float]:
        return self.floor if isinstance(self.floor, Sequence) else [self.floor] * len(self.times)

    @property
    def ratio(self) -> float:
        return median(time / floor for time, floor in zip(self.times, self.floors, strict=True))

    @property
    def ok(self) -> bool:
        return self.limit is None or self.ratio <= self.limit

    def cells(self) -> tuple[str, ...]:
        limit, ok = ("-", "-") if self.limit is None else (f"{self.limit:.2f}", "yes" if self.ok else "NO")
        shown, floor = (f"{x:.{DIGITS[self.unit]}f} {self.unit}" for x in (self.median, median(self.floors)))
        return self.what, shown, floor, f"{self.ratio:.3f}", limit, ok


def report(rows: Sequence[Row], over: str = "floor") -> int:
    """Print the table. Returns the exit code: 1 if a limit is broken."""
    table = [("what", "median", over, "ratio", "limit", "ok"), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for what, *numbers in table:
        cells = (cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))
        print("  ".join((what.ljust(widths[0]), *cells)))
    return int(not all(row.ok for row in rows))
