"""The weight vectors that a learner keeps: for broadcasts, and for who asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from torch import Tensor

from streamrec_dist.errors import InputLost
from streamrec_dist.rl.broadcast import Member, Plan


class Keeper:
    """The sending side, part of an actor class that computes; its methods run in threads of their own."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.kept: dict[int, Tensor] = {}  # until they are forgotten
        self.shared: dict[int, Any] = {}

    def forget(self, keys: Sequence[int]) -> None:
        """Free vectors that nobody can name any more."""
        for key in keys:
            self.kept.pop(key, None)
            self.shared.pop(key, None)

    def open_store(self) -> tuple[str, int]:
        """The address where members of broadcasts find one another."""
        self.member = Member(ray.util.get_node_ip_address())
        return self.member.open()

    def broadcast(self, plan: Plan) -> None:
        """Send a kept vector as the first member. Raises WorkerLost when it does not reach the others."""
        self.member.broadcast(plan, 0, self.kept[plan.key].to(plan.device))

    def share(self, key: int) -> list[Any]:
        """A reference, in a list, to a kept vector in the object store. Raises InputLost when it is not kept."""
        if key not in self.shared:
            vector = self.kept.get(key)
            if vector is None:
                raise InputLost(f"the learner does not have its weights {key} any more")
            self.shared[key] = ray.put(vector.cpu().numpy())
        return [self.shared[key]]
