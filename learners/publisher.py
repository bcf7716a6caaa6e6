"""The weight publisher: a version for every vector of weights that workers may adopt."""

from __future__ import annotations

from streamrec_dist.rl.ports import Payload, Published
from streamrec_dist.types import PolicyVersion


class WeightPublisher:
    """Implements the Publisher port for one run.

    The vector stays where the learner put it, in the object store; what is published is a reference to it, which
    a worker pulls when it next has work of that version. No collective spans learners and actors, so nothing can
    hang and actors may come and go.
    """

    def __init__(self) -> None:
        self._next = 0

    def publish(self, vector: Payload) -> Published:
        version = PolicyVersion(self._next)
        self._next += 1
        return Published(version, vector)
