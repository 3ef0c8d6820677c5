"""One measurement per row, each beside its floor; a limit is a ratio that must not be exceeded."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """What was measured, in seconds; `limit` None: told, and not judged."""

    what: str
    times: Sequence[float]
    floor: float
    limit: float | None = None

    @property
    def median(self) -> float:
        return median(self.times)

    @property
    def ratio(self) -> float:
        return self.median / self.floor

    @property
    def ok(self) -> bool:
        return self.limit is None or self.ratio <= self.limit

    def cells(self) -> tuple[str, ...]:
        limit, ok = ("-", "-") if self.limit is None else (f"{self.limit:.2f}", "yes" if self.ok else "NO")
        return self.what, f"{self.median:.3f} s", f"{self.floor:.3f} s", f"{self.ratio:.3f}", limit, ok


def report(rows: Sequence[Row]) -> int:
    """Print the table. Returns the exit code: 1 if a limit is broken."""
    table = [("what", "median", "floor", "ratio", "limit", "ok"), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for what, *numbers in table:
        cells = (cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))
        print("  ".join((what.ljust(widths[0]), *cells)))
    return int(not all(row.ok for row in rows))
