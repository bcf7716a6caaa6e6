"""The best evaluation so far, and when to stop waiting for a better one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from streamrec_dist.errors import DataError
from streamrec_dist.rl.ports import Weights


@dataclass
class Best:
    """Keeps the weights of the highest validation NDCG@10; selection never looks at the test split.

    Of equal ones the earliest, in whatever order they are offered.
    """

    patience: int
    step: int = -1
    metrics: dict[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    misses: int = 0

    def offer(self, step: int, metrics: dict[str, Any], weights: Weights) -> bool:
        """Take an evaluation; True when it is the best so far."""
        if self.weights is None or (metrics["ndcg@10"], -step) > (self.metrics["ndcg@10"], -self.step):
            self.step, self.metrics, self.weights, self.misses = step, metrics, weights, 0
            return True
        self.misses += 1
        return False

    @property
    def exhausted(self) -> bool:
        return self.misses >= self.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, next to the weights."""
        return {"step": self.step, "metrics": self.metrics, "misses": self.misses}

    def arrays(self) -> dict[str, Any]:
        return {f"best.{name}": array for name, array in (self.weights or {}).items()}

    def restore(self, arrays: Weights, state: dict[str, Any]) -> None:
        """Raises DataError for weights without their evaluation, or the other way round."""
        prefix = "best."
        self.step, self.metrics, self.misses = state["step"], state["metrics"], state["misses"]
        self.weights = {
            name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)
        } or None
        if (self.weights is None) != (self.step < 0):
            raise DataError("the checkpoint has no best weights, or no evaluation of them; remove its folder")
