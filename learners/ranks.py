"""A gang of processes in one torch process group: how its members meet, and how it is called as one."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch.distributed as dist

from streamrec_dist.config import Config, LearnersConfig
from streamrec_dist.errors import EnvironmentProblem, RunError, StreamRecError, WorkerLost, summary
from streamrec_dist.hardware import use_cores
from streamrec_dist.repeatable import compute_repeatably

START_DEADLINE_S = 180.0
CALL_DEADLINE_S = 900.0
#: A collective that takes longer than this has lost a rank.
COLLECTIVE_DEADLINE = datetime.timedelta(seconds=300)


class Rank:
    """One member, the base of an actor class; all ranks get the same calls in the same order."""

    def __init__(self, config: Config, rank: int, world_size: int, backend: str):
        if config.deterministic:
            compute_repeatably()
        self.rank, self.world_size, self.backend = rank, world_size, backend
        self.device = "cuda" if ray.get_gpu_ids() else "cpu"
        if self.device == "cpu":
            use_cores(config.learners.cpus)

    def meeting_point(self) -> str:
        """Where the ranks meet: an address of this node with a free port."""
        ip = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((ip, 0))
            return f"tcp://{ip}:{probe.getsockname()[1]}"

    def join(self, address: str) -> None:
        """Form the process group; a group of one needs none."""
        if self.world_size == 1:
            return
        if address.startswith("tcp://127."):
            # gloo would otherwise listen on whatever the host's name resolves to.
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group(
            self.backend,
            init_method=address,
            rank=self.rank,
            world_size=self.world_size,
            timeout=COLLECTIVE_DEADLINE,
        )

    @contextmanager
    def together(self) -> Iterator[None]:
        """When another rank dies, this one's collective fails: that is a lost worker, not an error of ours."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise WorkerLost(f"rank {self.rank} lost the other learners: {summary(error)}") from error
            raise


class RankGroup:
    """The ranks of one actor class, started and joined."""

    def __init__(self, actor_class: type[Rank], config: LearnersConfig, args: Sequence[Any]):
        """Each rank is `actor_class(*args, rank, world_size, backend)`, big arguments as references.

        Raises EnvironmentProblem when the ranks do not come up in time.
        """
        self.world_size = config.world_size
        # NCCL refuses two ranks on one device.
        own_gpu = config.gpus != "auto" and config.gpus >= 1
        backend = config.backend if config.backend != "auto" else ("nccl" if own_gpu else "gloo")
        options = {"num_cpus": config.cpus, "num_gpus": config.gpus}
        self.ranks: list[Any] = [
            ray.remote(actor_class).options(**options).remote(*args, rank, self.world_size, backend)
            for rank in range(self.world_size)
        ]
        try:
            address = self.get(self.ranks[0].meeting_point.remote(), "starting", START_DEADLINE_S)
            self.get([rank.join.remote(address) for rank in self.ranks], "joining", START_DEADLINE_S)
        except StreamRecError:
            self.close()
            raise

    def close(self) -> None:
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks = []

    def all(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every rank and wait."""
        return self.get([getattr(rank, method).remote(*args) for rank in self.ranks], method)

    def first(self, method: str) -> Any:
        """Call a method of rank 0 and wait."""
        return self.get(getattr(self.ranks[0], method).remote(), method)

    def get(self, refs: Any, method: str, timeout_s: float = CALL_DEADLINE_S) -> Any:
        try:
            return ray.get(refs, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise EnvironmentProblem(
                f"the {self.world_size} learner ranks did not finish {method} within {timeout_s:.0f} s; "
                "is the cluster busy with another run? see `streamrec-dist status`"
            ) from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StreamRecError):
                raise error.cause from None
            lost = isinstance(error.cause, ray.exceptions.RayActorError)
            message = f"the learners failed in {method}: {summary(error)}"
            raise (WorkerLost if lost else RunError)(message) from None
        except ray.exceptions.RayActorError as error:
            raise WorkerLost(f"a learner rank died in {method}: {summary(error)}") from None
