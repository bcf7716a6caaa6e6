"""How long work takes, by which what is overdue is told from what is slow."""

from __future__ import annotations

#: Work is overdue after so many times the slowest of its kind, and never before so long. Of what has not been seen
#: yet nobody knows: it may compile, or fetch a model, first.
SLOWEST, SHORTEST_S, LONGEST_S = 10.0, 20.0, 900.0
#: How long a role finds no room for what it needs before others give up what they do not need, one process at a time.
YIELD_S = 10.0


class Pace:
    """The slowest of each kind of work that was done, in seconds a unit."""

    def __init__(self) -> None:
        self._slowest: dict[str, float] = {}

    def took(self, kind: str, seconds: float, units: int = 1) -> None:
        self._slowest[kind] = max(self._slowest.get(kind, 0.0), seconds / max(units, 1))

    def limit(self, kind: str, units: int = 1, begun: int = 1) -> float:
        """Seconds until work of this kind is overdue; twice as many each time that it has to be begun again."""
        if kind not in self._slowest:
            return LONGEST_S
        return min(max(SHORTEST_S, SLOWEST * self._slowest[kind] * units) * 2 ** (begun - 1), LONGEST_S)
