"""Weights that go from a learner to many workers at once, in a process group beside torch's default one.

Workers come and go, so nothing depends on it: a vector stays with the learner that made it (`Kept`), and who has not
got it by broadcast asks for it.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch.distributed as dist
from torch import Tensor

from streamrec_dist.errors import WorkerLost, summary
from streamrec_dist.network import interface_of

Transport = Literal["gloo", "nccl"]
#: What one broadcast may take, with the forming of its group, and so what a member that hangs costs the others.
DEADLINE_S = 20.0
#: Threads of an actor that takes part. Broadcasts must not wait for its work, nor what is asked for wait for them.
BROADCAST, SHARE = "broadcast", "share"
CONCURRENCY = {BROADCAST: 1, SHARE: 1}


@dataclass(eq=False)
class Kept:
    """A flat vector that stays with the actor that made it: `owner.share(key)` puts it into the object store.

    Workers that are `invited` (by the ids Ray gives them) get it by broadcast, within `deadline_s` or not at all.
    """

    key: int  # of the vector among those of the owner, rising
    owner: Any
    invited: frozenset[str] = frozenset()
    deadline_s: float = DEADLINE_S


@dataclass(frozen=True)
class Plan:
    """One broadcast. Members of the same `address` and `epoch` are the same, in the same order; the first sends."""

    key: int
    address: tuple[str, int]  # of the store where they find one another
    epoch: int
    world_size: int
    transport: Transport
    deadline_s: float

    @property
    def device(self) -> str:
        """Where a vector has to be."""
        return "cuda" if self.transport == "nccl" else "cpu"


def transport_for(*gpus: float | Literal["auto"]) -> Transport:
    """NCCL where every member has a GPU of its own, of the `gpus` that each kind has: it refuses two on one."""
    return "nccl" if all(one != "auto" and one >= 1 for one in gpus) else "gloo"


class Member:
    """This process in broadcasts: in one group at a time, which it keeps until the next is another or one fails."""

    def __init__(self, host: str):
        """`host` is the address of this machine by which the others reach it."""
        self.host = host
        self._served: dist.TCPStore | None = None
        self._group: Any = None
        self._of: tuple[Any, int] | None = None

    def open(self) -> tuple[str, int]:
        """The address of a store in this process, where the members of a group find one another."""
        if self._served is None:
            # Left to itself it listens on every interface.
            listening = socket.create_server((self.host, 0))
            port = listening.getsockname()[1]
            self._served = dist.TCPStore(
                self.host,
                port,
                is_master=True,
                wait_for_workers=False,
                master_listen_fd=listening.detach(),
            )
        return self.host, self._served.port

    def broadcast(self, plan: Plan, rank: int, vector: Tensor) -> None:
        """Send a vector, or receive into one of the same size.

        Raises WorkerLost when another member died or the deadline passes; the group is left then.
        """
        until = time.monotonic() + plan.deadline_s
        try:
            if self._of != (plan.address, plan.epoch):
                self._join(plan, rank, until)
            options = dist.BroadcastOptions()
            options.rootRank, options.timeout = 0, _left(until)
            self._group.broadcast([vector], options).wait(_left(until))
        except RuntimeError as error:
            self.leave()
            raise WorkerLost(f"weights were not broadcast: {summary(error)}") from error

    def _join(self, plan: Plan, rank: int, until: float) -> None:
        self.leave()
        store = dist.TCPStore(*plan.address, is_master=False, timeout=_left(until), wait_for_workers=False)
        # Groups that failed have left their addresses in the store.
        meeting = dist.PrefixStore(f"weights/{plan.epoch}", store)
        form = _form_nccl if plan.transport == "nccl" else _form_gloo
        self._group = form(meeting, rank, plan.world_size, self.host, _left(until))
        self._of = plan.address, plan.epoch

    def leave(self) -> None:
        if self._group is not None and self._group.name() == "nccl":
            # Without it the communicator of a group that failed waits for the others.
            self._group.abort()
        self._group = self._of = None


def _left(until: float) -> timedelta:
    return timedelta(seconds=max(until - time.monotonic(), 0.001))


def _form_gloo(store: dist.Store, rank: int, size: int, host: str, timeout: timedelta) -> Any:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(interface=interface_of(host))]
    options._timeout = timeout
    return dist.ProcessGroupGloo(store, rank, size, options)


def _form_nccl(store: dist.Store, rank: int, size: int, host: str, timeout: timedelta) -> Any:
    os.environ["NCCL_SOCKET_IFNAME"] = interface_of(host)
    # By default torch ends the whole process when a collective is overdue; here the caller is told.
    handling = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
    before = os.environ.get(handling)
    os.environ[handling] = "0"
    try:
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return dist.ProcessGroupNCCL(store, rank, size, options)
    finally:
        del os.environ[handling]
        os.environ |= {handling: before} if before is not None else {}
