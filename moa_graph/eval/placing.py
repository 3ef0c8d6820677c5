"""Where the names in a plot stand, so that none lies on another. Plain geometry: no matplotlib."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

__all__ = ["Box", "apart", "place"]

_DISTANCES: Final = (6.0, 12.0, 20.0, 30.0, 42.0, 56.0)
_DIRECTIONS: Final = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


class Box(NamedTuple):
    """A rectangle: its left, lower, right and upper edge."""

    left: float
    low: float
    right: float
    high: float

    def shared(self, other: "Box") -> float:
        """The area that both cover."""
        across = min(self.right, other.right) - max(self.left, other.left)
        along = min(self.high, other.high) - max(self.low, other.low)
        return max(0.0, across) * max(0.0, along)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.high - self.low)


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Places on a line, in the same order and as near to the wanted ones as it goes, at least `gap` apart."""
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    groups: list[list[float]] = []  # each: the sum of where its members would have its first one, and how many
    for k in order:
        groups.append([wanted[k], 1])
        while len(groups) > 1 and _first(groups[-2]) + gap * groups[-2][1] > _first(groups[-1]):
            total, count = groups.pop()
            groups[-1][0] += total - gap * groups[-1][1] * count
            groups[-1][1] += count
    placed = [_first(group) + gap * n for group in groups for n in range(int(group[1]))]
    found = [0.0] * len(wanted)
    for k, at in zip(order, placed, strict=True):
        found[k] = at
    return found


def _first(group: Sequence[float]) -> float:
    return group[0] / group[1]


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    inside: Box,
    taken: Sequence[Box] = (),
) -> list[Box]:
    """A box of its size beside each point, inside a frame, that covers as little as possible of what is there.

    One after the other, the nearest free place first; `taken`: what else is not to be covered.
    """
    occupied = [*taken, *(Box(x - 4, y - 4, x + 4, y + 4) for x, y in points)]
    found = []
    for point, size in zip(points, sizes, strict=True):
        best = min(_around(point, size), key=lambda box: _covers(box, occupied, inside))  # the first of equals
        occupied.append(best)
        found.append(best)
    return found


def _around(point: tuple[float, float], size: tuple[float, float]) -> Iterator[Box]:
    (x, y), (width, height) = point, size
    for distance in _DISTANCES:
        for right, up in _DIRECTIONS:
            left = x + right * distance + (right - 1) * width / 2
            low = y + up * distance + (up - 1) * height / 2
            yield Box(left, low, left + width, low + height)


def _covers(box: Box, occupied: Sequence[Box], inside: Box) -> float:
    return sum(box.shared(other) for other in occupied) + 10 * (box.area - box.shared(inside))
