"""A gang of processes in one torch process group: how its members meet, and how it is called as one."""

from __future__ import annotations

import datetime
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch.distributed as dist

from streamrec_dist.config import Config, LearnersConfig
from streamrec_dist.errors import EnvironmentProblem, RunError, StreamRecError, WorkerLost, summary
from streamrec_dist.hardware import use_cores
from streamrec_dist.network import interface_of
from streamrec_dist.repeatable import compute_repeatably
from streamrec_dist.rl.pace import YIELD_S, Pace

JOIN_DEADLINE_S = 180.0
#: A collective that takes longer than this has lost a rank.
COLLECTIVE_DEADLINE = datetime.timedelta(seconds=300)


class Rank:
    """One member, the base of an actor class; all ranks get the same calls in the same order."""

    def __init__(self, config: Config):
        if config.deterministic:
            compute_repeatably()
        self.rank, self.world_size = 0, 1
        self.device = "cuda" if ray.get_gpu_ids() else "cpu"
        if self.device == "cpu":
            use_cores(config.learners.cpus)

    def place(self) -> dict[str, Any]:
        """Where it runs; answered as soon as it is up."""
        context = ray.get_runtime_context()
        return {
            "node": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "worker": context.get_worker_id(),
        }

    def meeting_point(self) -> tuple[str, int]:
        """Where the ranks meet: the address of this node and a free port of it, which the first rank listens at."""
        self._listening = socket.create_server((ray.util.get_node_ip_address(), 0))
        host, port = self._listening.getsockname()[:2]
        return host, port

    def join(self, meeting_point: tuple[str, int], rank: int, world_size: int, backend: str) -> None:
        """Form the process group; a group of one needs none. Raises WorkerLost when another rank does not come."""
        self.rank, self.world_size = rank, world_size
        if world_size > 1:
            with self.together():
                self._meet(meeting_point, backend)

    def _meet(self, meeting_point: tuple[str, int], backend: str) -> None:
        # They would otherwise announce whatever the host's name resolves to, on many machines 127.0.0.1.
        interface = interface_of(ray.util.get_node_ip_address())
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = interface
        # One that opens its own port listens on every interface.
        listening = self._listening.detach() if self.rank == 0 else None
        store = dist.TCPStore(
            *meeting_point,
            self.world_size,
            is_master=self.rank == 0,
            timeout=COLLECTIVE_DEADLINE,
            master_listen_fd=listening,
        )
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.world_size, timeout=COLLECTIVE_DEADLINE
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
    """The ranks of one actor class, started and joined; together they die, and together they start again."""

    def __init__(
        self,
        actor_class: type[Rank],
        config: LearnersConfig,
        args: Sequence[Any],
        resources: dict[str, float] | None = None,
        patience_s: float = 180.0,
        allowed: Callable[[int], bool] = lambda world_size: True,
        make_room: Callable[[], None] = lambda: None,
        threads: dict[str, int] | None = None,
    ):
        """Each rank is `actor_class(*args)`, big arguments as references; there may be as many as `allowed` says.
        Nothing runs before `start`.

        `make_room` is called now and then while ranks that are needed find no room. `threads` are groups of threads
        (Ray's concurrency groups) besides the one in which ranks work.
        """
        self.config, self.args, self.allowed, self.patience_s = config, args, allowed, patience_s
        self.make_room, self.pace = make_room, Pace()
        self.target = config.world_size
        self.minimum = config.minimum or config.world_size
        # NCCL refuses two ranks on one device.
        own_gpu = config.gpus != "auto" and config.gpus >= 1
        self.backend = config.backend if config.backend != "auto" else ("nccl" if own_gpu else "gloo")
        remote: Any = ray.remote  # whose types do not know of threads
        self.actor_class = remote(concurrency_groups=threads)(actor_class).options(
            num_cpus=config.cpus, num_gpus=config.gpus, resources=resources or {}
        )
        self.ranks: list[Any] = []
        self.places: list[dict[str, Any]] = []
        self.lost = 0
        #: What each rank told of the newest step (`Spans.told`), where ranks do, and how often they have.
        self.told: list[dict[str, Any]] = []
        self.finished = 0

    @property
    def world_size(self) -> int:
        return len(self.ranks)

    def start(self) -> None:
        """Start `target` ranks; fewer, but `minimum`, where the cluster has no room for them all.

        Raises EnvironmentProblem when fewer than that come up within `patience_s`, WorkerLost when one dies.
        """
        self.ranks = [self.actor_class.remote(*self.args) for _ in range(self.target)]
        try:
            self._join(self._up())
        except (StreamRecError, ray.exceptions.RayError):
            self.close()
            raise

    def _up(self) -> list[Any]:
        """The ranks that came up in time, as many as may form a group. The others are ended."""
        starting = {rank.place.remote(): rank for rank in self.ranks}
        refs, give_up = list(starting), time.monotonic() + self.patience_s
        ready: list[Any] = []
        needed = min(self.minimum, self.target)
        while len(ready) < len(refs) and (left := give_up - time.monotonic()) > 0:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=min(left, YIELD_S), fetch_local=False)
            if len(ready) < needed:
                self.make_room()
        size = max((n for n in range(1, len(ready) + 1) if self.allowed(n)), default=0)
        if size < needed:
            raise EnvironmentProblem(
                f"{len(ready)} of {self.target} learner ranks came up within {self.patience_s:.0f} s "
                f"(cluster.patience_s), learners.minimum is {self.minimum}; is the cluster busy with another run, or "
                "has it lost nodes? see `streamrec-dist status`"
            )
        chosen = [ref for ref in refs if ref in set(ready)][:size]
        for ref, rank in starting.items():
            if ref not in chosen:
                ray.kill(rank)
        self.places = self.get(chosen, "starting", JOIN_DEADLINE_S)
        return [starting[ref] for ref in chosen]

    def _join(self, ranks: list[Any]) -> None:
        self.ranks = ranks
        meeting = self.get(ranks[0].meeting_point.remote(), "starting", JOIN_DEADLINE_S)
        joining = [
            rank.join.remote(meeting, number, len(ranks), self.backend) for number, rank in enumerate(ranks)
        ]
        self.get(joining, "joining", JOIN_DEADLINE_S)

    def close(self) -> None:
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks, self.places = [], []

    def all(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every rank and wait."""
        return self._timed(method, lambda: [getattr(rank, method).remote(*args) for rank in self.ranks])

    def first(self, method: str) -> Any:
        """Call a method of rank 0 and wait."""
        return self._timed(method, lambda: getattr(self.ranks[0], method).remote())

    def _timed(self, method: str, call: Callable[[], Any]) -> Any:
        """What a call gives; a rank that takes far longer than ever before is taken for lost."""
        started = time.monotonic()
        result = self.get(call(), method, self.pace.limit(method))
        self.pace.took(method, time.monotonic() - started)
        return result

    def get(self, refs: Any, method: str, timeout_s: float) -> Any:
        """What references stand for. Raises WorkerLost when a rank died or the time is up, else RunError."""
        try:
            return ray.get(refs, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise WorkerLost(
                f"the {self.world_size} learner ranks did not finish {method} within {timeout_s:.0f} s"
            ) from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StreamRecError):
                raise error.cause from None
            lost = isinstance(error.cause, ray.exceptions.RayActorError | ray.exceptions.ObjectLostError)
            message = f"the learners failed in {method}: {summary(error)}"
            raise (WorkerLost if lost else RunError)(message) from None
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed:
                raise RunError(f"a learner rank could not start: {summary(error)}") from None
            raise WorkerLost(f"a learner rank died in {method}: {summary(error)}") from None
