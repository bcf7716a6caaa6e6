"""Vectors of weights on their way to a worker that does not get them with its calls."""

from __future__ import annotations

import threading
import time

import numpy as np
import ray
import torch
from torch import Tensor

from streamrec_dist.errors import InputLost, StreamRecError, summary
from streamrec_dist.rl.broadcast import SHARE, Kept, Member, Plan

FETCH_DEADLINE_S = 120.0


def fetch(kept: Kept) -> np.ndarray:
    """A vector that a learner keeps, through the object store. Raises InputLost when it cannot be had any more."""
    until = time.monotonic() + FETCH_DEADLINE_S
    try:
        asked = kept.owner.share.options(concurrency_group=SHARE).remote(kept.key)
        (ref,) = ray.get(asked, timeout=FETCH_DEADLINE_S)
        return ray.get(ref, timeout=max(until - time.monotonic(), 0.0))
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, StreamRecError):
            raise error.cause from None
        raise InputLost(f"the learner that keeps the weights did not give them: {summary(error)}") from None


class Inbox:
    """What broadcasts bring, in a thread of their own, until the worker adopts it."""

    def __init__(self, size: int, newest: int):
        """Vectors are float32 [size]; the `newest` that have arrived are held."""
        self.size, self.newest = size, newest
        self.name = ray.get_runtime_context().get_worker_id()
        self.member = Member(ray.util.get_node_ip_address())
        self.arrived: dict[int, Tensor] = {}
        self.settled = -1  # key of the last broadcast that has ended, well or not
        self.changed = threading.Condition()

    def receive(self, plan: Plan, rank: int) -> None:
        """Take part in a broadcast. Raises WorkerLost when nothing came."""
        vector = torch.empty(self.size, device=plan.device)
        came = False
        try:
            self.member.broadcast(plan, rank, vector)
            came = True
        finally:
            with self.changed:
                if came:
                    self.arrived[plan.key] = vector
                    for old in sorted(self.arrived)[: -self.newest]:
                        del self.arrived[old]
                self.settled = plan.key
                self.changed.notify_all()

    def take(self, kept: Kept) -> np.ndarray | Tensor:
        """A vector: as it came by broadcast, waited for where one is on its way, else through the object store."""
        if self.name in kept.invited:
            with self.changed:
                self.changed.wait_for(lambda: self.settled >= kept.key, kept.deadline_s)
                vector = self.arrived.get(kept.key)
                # Adopted it is in the model; older ones are not asked for after it, but where calls are repeated.
                self.arrived = {key: value for key, value in self.arrived.items() if key > kept.key}
            if vector is not None:
                return vector
        return fetch(kept)
