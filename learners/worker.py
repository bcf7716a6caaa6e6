"""One learner rank as an actor: a process group around `training.Learner`."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist

from streamrec_dist.errors import WorkerLost, summary
from streamrec_dist.materials import Materials
from streamrec_dist.rl.ports import Weights
from streamrec_dist.training.learner import Learner
from streamrec_dist.types import Annotation, GroupCounts, PolicyVersion, RewardBreakdown, RolloutBatch

#: A collective that takes longer than this has lost a rank.
COLLECTIVE_DEADLINE = datetime.timedelta(seconds=300)


class LearnerWorker:
    """Rank `rank`; all ranks get the same calls in the same order."""

    def __init__(self, materials: Materials, rank: int, world_size: int, backend: str, cpus: float):
        self.materials, self.rank, self.world_size, self.backend = materials, rank, world_size, backend
        self.device = "cuda" if ray.get_gpu_ids() else "cpu"
        if self.device == "cpu":
            # As for the actors: more threads than cores make every parallel region wait.
            torch.set_num_threads(max(1, int(cpus)))

    def meeting_point(self) -> str:
        """Where the ranks meet: an address of this node with a free port."""
        ip = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((ip, 0))
            return f"tcp://{ip}:{probe.getsockname()[1]}"

    def join(self, address: str) -> None:
        """Form the process group; a group of one needs none."""
        if self.world_size > 1:
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
        self.learner = Learner(self.materials, self.rank, self.world_size, self.device)

    def begin(
        self,
        stage: str,
        total_steps: int,
        weights: Weights | None,
        checkpoint: Weights | None,
        step: int,
    ) -> None:
        self.learner.begin(stage, total_steps, weights, checkpoint, step)

    def annotate(self, *parts: Annotation) -> None:
        self.learner.annotate(parts)

    def train_rows(self, epoch: int, first: int, last: int) -> list[dict[str, float]]:
        with self._together():
            return self.learner.train_rows(epoch, first, last)

    def train_groups(
        self,
        groups: Sequence[np.ndarray],
        counts: GroupCounts,
        version: PolicyVersion,
        *columns: RolloutBatch | RewardBreakdown,
    ) -> dict[str, float]:
        """`columns` alternate rollouts and rewards, one pair for each entry of `groups`."""
        shards: Any = list(zip(columns[::2], columns[1::2], groups, strict=True))
        with self._together():
            return self.learner.train_groups(shards, counts, version)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """When another rank dies, this one's collective fails: that is a lost worker, not an error of ours."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise WorkerLost(f"rank {self.rank} lost the other learners: {summary(error)}") from error
            raise

    def vector(self, policy_only: bool) -> np.ndarray:
        return self.learner.vector(policy_only)

    def weights(self) -> Weights:
        return self.learner.weights()

    def checkpoint(self) -> Weights:
        return self.learner.checkpoint()
