"""One learner rank, in plain torch: model, loss of the stage, optimiser. In a process group DDP averages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from streamrec_dist.baselines.config import ITEM_MODELS, section_name
from streamrec_dist.config import RlConfig
from streamrec_dist.data.batches import epoch_order, history_lengths, rank_rows
from streamrec_dist.errors import RunError
from streamrec_dist.materials import Materials, autocast
from streamrec_dist.model.weights import export_weights, flat, flatten, import_weights
from streamrec_dist.spans import Spans
from streamrec_dist.training.item_trainees import ItemTrainee, RetrieverTrainee
from streamrec_dist.training.loader import prefetched
from streamrec_dist.training.optimiser import Optimiser, learning_rate
from streamrec_dist.training.rl_trainee import RlTrainee, Shard
from streamrec_dist.training.row_trainees import CalibrationTrainee, PretrainTrainee, SftTrainee
from streamrec_dist.training.tiger import TigerTrainee
from streamrec_dist.training.trainee import Trainee
from streamrec_dist.types import Annotation, GroupCounts, PolicyVersion

#: The trainee of a stage or baseline, and the number that its dropout is drawn by.
TRAINEES: dict[str, tuple[Callable[[Materials, torch.device], Trainee], int]] = {
    "pretrain": (PretrainTrainee, 0),
    "sft": (SftTrainee, 1),
    "rl": (RlTrainee, 2),
    "retrieve": (RetrieverTrainee, 3),
    "calibrate": (CalibrationTrainee, 4),
    "tiger": (TigerTrainee, 5),
} | {name: (partial(ItemTrainee, name), 6 + number) for number, name in enumerate(ITEM_MODELS)}


class Learner:
    """Rank `rank` of `world_size`. `begin` a stage, then train; all ranks make the same calls."""

    def __init__(self, materials: Materials, rank: int = 0, world_size: int = 1, device: str = "cpu"):
        self.materials = materials
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device)
        self.stage = ""
        self.step = 0
        #: Of the newest work.
        self.spans = Spans()

    def begin(
        self,
        stage: str,
        total_steps: int,
        weights: Mapping[str, np.ndarray] | None = None,
        checkpoint: Mapping[str, np.ndarray] | None = None,
        step: int = 0,
        fold: int = -1,
    ) -> None:
        """Start `stage` from `weights` (None: the initial model), or go on at `step` from checkpoint arrays.

        In stage 3 `weights` are also the frozen reference of the KL term. In stage retrieve a `fold` of the users
        is left out.
        """
        self.stage, self.total_steps, self.step = stage, total_steps, step
        make, self.number = TRAINEES[stage]
        trainee = make(self.materials, self.device)
        if isinstance(trainee, RetrieverTrainee):
            trainee.leave_out(fold)
        self.trainee, self.model = trainee, trainee.model
        if weights is not None:
            import_weights(self.model, weights)
        for name, value in self.model.named_parameters():
            value.requires_grad_(name.startswith(trainee.only) and not name.startswith(trainee.frozen))
        loss = trainee.started()
        if checkpoint is not None:
            prefix = "model."
            saved = {n.removeprefix(prefix): a for n, a in checkpoint.items() if n.startswith(prefix)}
            import_weights(self.model, saved)
        self.loss = self._parallel(loss)
        config = trainee.config
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.optimiser = Optimiser(trained, config.weight_decay, config.clip_norm)
        if checkpoint is not None:
            self.optimiser.restore(checkpoint)
        self._epoch_order: tuple[int, np.ndarray] = (-1, np.empty((0, 0), dtype=np.int64))

    def _parallel(self, loss: nn.Module) -> nn.Module:
        if not dist.is_initialized():
            return loss
        # Left to itself it shares the gradients out anew after the first step, and in another layout three ranks
        # and more add them in another order: a run that was resumed would have other bits. This keeps the layout.
        keep_layout = self.materials.config.deterministic
        return DistributedDataParallel(
            loss,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=keep_layout,
        )

    # stages and baselines that learn rows: all but stage 3

    def annotate(self, parts: Sequence[Annotation]) -> None:
        """Take the annotations of a round, which together cover the rows that stage 2, or its calibration, learns.

        Raises RunError where they do not.
        """
        assert isinstance(self.trainee, SftTrainee)
        self.trainee.annotate(parts)

    def train_rows(self, epoch: int, first: int, last: int) -> list[dict[str, float]]:
        """Optimizer steps on batches `first`..`last` of an epoch; returns the metrics of each step."""
        started = time.perf_counter()
        self.spans.begin()
        batches = self._batches(epoch)[first:last]
        steps = [
            self._optimise([partial(self.loss, part) for part in parts])
            for parts in prefetched(self._row_parts, batches)
        ]
        metrics = [self._read(step) for step in steps]
        seconds = (time.perf_counter() - started) / max(len(steps), 1)
        timing = [{"seconds": seconds, "rows_per_s": len(batch) / seconds} for batch in batches]
        return [read | timed for read, timed in zip(metrics, timing, strict=True)]

    def _batches(self, epoch: int) -> np.ndarray:
        if self._epoch_order[0] != epoch:
            lengths = history_lengths(self.materials.corpus, self.trainee.rows)
            config = self.trainee.config
            assert not isinstance(config, RlConfig)
            seed = self.materials.config.seed
            order = epoch_order(lengths, config.batch, seed, epoch, self.world_size)
            self._epoch_order = (epoch, order)
        return self._epoch_order[1]

    def _row_parts(self, batch: np.ndarray) -> list[Any]:
        """What this rank passes over, one after the other, in an optimizer step on the rows `batch` of all ranks."""
        return self.trainee.parts(rank_rows(batch, self.rank, self.world_size), batch)

    # stage 3

    def train_groups(
        self, shards: Sequence[Shard], counts: GroupCounts, version: PolicyVersion
    ) -> dict[str, float]:
        """One optimizer step on this rank's groups of scored rollouts.

        Each shard is a RolloutBatch, its rewards, and which of its groups this rank takes (int64), at least one
        in all; the first `counts.own` of them count.
        """
        started = time.perf_counter()
        self.spans.begin()
        assert isinstance(self.trainee, RlTrainee)
        with self.spans.part("prepare"):
            batches = self.trainee.group_parts(shards, counts, version)
        step = self._optimise([partial(self.loss, batch, counts.total, self.world_size) for batch in batches])
        with self.spans.part("optimise"):
            metrics = self._read(step)
        return metrics | {"seconds": time.perf_counter() - started}

    # shared

    def _optimise(self, parts: Sequence[Callable[[], tuple[Tensor, dict[str, Tensor]]]]) -> dict[str, Tensor]:
        """One optimizer step on the sum of the parts' losses; the metrics, and the loss, are left on the device."""
        # Dropout is a function of (seed, stage, step, rank): a resumed run draws what this one would have.
        key = np.random.SeedSequence([self.materials.config.seed, self.number, self.step, self.rank])
        torch.manual_seed(int(key.generate_state(1)[0]))
        values: dict[str, Tensor] = {}
        for number, compute_loss in enumerate(parts):
            with self._synchronised(number == len(parts) - 1):
                with self.spans.part("forward"), autocast(self.materials.config, self.device):
                    loss, metrics = compute_loss()
                with self.spans.part("backward"):
                    loss.backward()
            for name, value in (metrics | {"loss": loss}).items():
                values[name] = values.get(name, 0.0) + value.detach()
        config = self.trainee.config
        rate = learning_rate(config.lr, config.warmup, self.step, self.total_steps)
        with self.spans.part("optimise"):
            values["grad_norm"] = self.optimiser.step(rate)
        values["lr"] = torch.tensor(rate, dtype=torch.float64)
        self.step += 1
        values["step"] = torch.tensor(self.step)
        return values

    def _synchronised(self, now: bool) -> AbstractContextManager[None]:
        """Ranks average their gradients in the backward pass of the last part only."""
        if now or not isinstance(self.loss, DistributedDataParallel):
            return nullcontext()
        return self.loss.no_sync()

    def _read(self, step: dict[str, Tensor]) -> dict[str, float]:
        """The metrics of a step, waited for. Raises RunError where its gradient was not finite."""
        values = {name: float(value) for name, value in step.items()}
        number = int(values.pop("step"))
        if not np.isfinite(values["grad_norm"]):
            # The rate of calibration is no key.
            calmer = (
                "stages.sft.calibration: 0, which leaves it out"
                if self.stage == "calibrate"
                else f"a smaller {section_name(self.stage)}.lr"
            )
            raise RunError(
                f"the gradient of stage {self.stage} is not finite at step {number}; try {calmer}, or "
                "model.precision: fp32"
            )
        return values

    def weights(self) -> dict[str, np.ndarray]:
        """All weights by name."""
        return export_weights(self.model)

    def vector(self, policy_only: bool) -> np.ndarray:
        """The policy's weights, or all, as one flat vector, as they are published."""
        return flatten(self.model, policy_only)

    def policy(self) -> Tensor:
        """A copy of the policy's weights on this device, likewise."""
        return flat(self.model)

    def checkpoint(self) -> dict[str, np.ndarray]:
        """What `begin` needs to go on from here."""
        return {f"model.{name}": array for name, array in self.weights().items()} | self.optimiser.export()


def steps_per_epoch(rows: int, batch: int) -> int:
    """Optimizer steps of one epoch over so many training rows."""
    return max(rows // batch, 1)
