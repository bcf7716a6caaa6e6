"""One learner rank, in plain torch: model, loss of the stage, optimiser. In a process group DDP averages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from streamrec_dist.config import PretrainConfig, RlConfig, SftConfig
from streamrec_dist.data.batches import (
    epoch_order,
    history_lengths,
    micro_batches,
    rank_rows,
)
from streamrec_dist.errors import RunError
from streamrec_dist.materials import Materials, autocast
from streamrec_dist.model.weights import export_weights, flatten, import_weights
from streamrec_dist.rl.advantage import group_advantages
from streamrec_dist.training.loader import prefetched
from streamrec_dist.training.optimiser import Optimiser, learning_rate
from streamrec_dist.training.pretrain_loss import PretrainBatch, PretrainLoss, pretrain_batch
from streamrec_dist.training.rl_loss import RlBatch, RlLoss, rollout_log_probs
from streamrec_dist.training.sft_loss import SftBatch, SftLoss, all_item_tokens, sft_batch
from streamrec_dist.transfer import to_device
from streamrec_dist.types import Annotation, GroupCounts, PolicyVersion, RewardBreakdown, RolloutBatch

#: Parameters that a stage leaves alone, by prefix.
FROZEN = {"pretrain": ("heads.",), "sft": ("direct.",), "rl": ("direct.", "heads.")}
Shard = tuple[RolloutBatch, RewardBreakdown, np.ndarray]


class Learner:
    """Rank `rank` of `world_size`. `begin` a stage, then train; all ranks make the same calls."""

    def __init__(self, materials: Materials, rank: int = 0, world_size: int = 1, device: str = "cpu"):
        self.materials = materials
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device)
        self.catalogue = materials.catalogue.to(device)
        self.stage = ""
        self.step = 0

    def begin(
        self,
        stage: str,
        total_steps: int,
        weights: Mapping[str, np.ndarray] | None = None,
        checkpoint: Mapping[str, np.ndarray] | None = None,
        step: int = 0,
    ) -> None:
        """Start `stage` from `weights` (None: the initial model), or go on at `step` from checkpoint arrays.

        In stage 3 `weights` are also the frozen reference of the KL term.
        """
        self.stage, self.total_steps, self.step = stage, total_steps, step
        self.model = self.materials.new_model().to(self.device)
        if weights is not None:
            import_weights(self.model, weights)
        self.reference = None
        if stage == "rl":
            self.reference = self.materials.new_model().to(self.device).eval()
            import_weights(self.reference, export_weights(self.model))
        if checkpoint is not None:
            prefix = "model."
            saved = {n.removeprefix(prefix): a for n, a in checkpoint.items() if n.startswith(prefix)}
            import_weights(self.model, saved)
        for name, value in self.model.named_parameters():
            value.requires_grad_(not name.startswith(FROZEN[stage]))
        self.loss = self._parallel(self._new_loss())
        config = self._stage_config
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.optimiser = Optimiser(trained, config.weight_decay, config.clip_norm)
        if checkpoint is not None:
            self.optimiser.restore(checkpoint)
        self._epoch_order: tuple[int, np.ndarray] = (-1, np.empty((0, 0), dtype=np.int64))
        self._annotation: Annotation | None = None

    @property
    def _stage_config(self) -> PretrainConfig | SftConfig | RlConfig:
        return getattr(self.materials.config.stages, self.stage)

    def _new_loss(self) -> nn.Module:
        stages = self.materials.config.stages
        if self.stage == "pretrain":
            return PretrainLoss(self.model, stages.pretrain.temperature, self.catalogue).train()
        if self.stage == "sft":
            items = all_item_tokens(self.materials)
            return SftLoss(self.model, stages.sft, items, self.catalogue).to(self.device).train()
        # No dropout: at equal versions the learner's log-probs must be the rollout's.
        return RlLoss(self.model, stages.rl, self.catalogue).eval()

    def _parallel(self, loss: nn.Module) -> nn.Module:
        if not dist.is_initialized():
            return loss
        return DistributedDataParallel(loss, broadcast_buffers=False, gradient_as_bucket_view=True)

    # stages 1 and 2

    def annotate(self, parts: Sequence[Annotation]) -> None:
        """Take the annotations of a round; together they cover all training rows."""
        parts = sorted(parts, key=lambda part: part.first)
        columns = ("thoughts", "own", "negatives", "reference_target", "reference_negative")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
        if len(joined["own"]) != len(self.materials.rows):
            raise RunError(
                f"annotations cover {len(joined['own'])} of {len(self.materials.rows)} training rows"
            )
        self._annotation = Annotation(first=0, **joined)

    def train_rows(self, epoch: int, first: int, last: int) -> list[dict[str, float]]:
        """Optimizer steps on batches `first`..`last` of an epoch; returns the metrics of each step."""
        started = time.perf_counter()
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
            lengths = history_lengths(self.materials.corpus, self.materials.rows)
            config = self._stage_config
            assert not isinstance(config, RlConfig)
            seed = self.materials.config.seed
            order = epoch_order(lengths, config.batch, seed, epoch, self.world_size)
            self._epoch_order = (epoch, order)
        return self._epoch_order[1]

    def _row_parts(self, batch: np.ndarray) -> list[PretrainBatch] | list[SftBatch]:
        """What this rank passes over, one after the other, in an optimizer step on the rows `batch` of all ranks."""
        mine = rank_rows(batch, self.rank, self.world_size)
        lengths = history_lengths(self.materials.corpus, self.materials.rows[mine])
        chosen = [mine[part] for part in self._micro_batches(lengths)]
        if self.stage == "pretrain":
            rows = self.materials.rows
            return [
                pretrain_batch(self.materials, rows[part], self.device, len(part) / len(mine))
                for part in chosen
            ]
        if self._annotation is None:
            raise RunError("stage sft trains on annotations, and none were given")
        return [
            sft_batch(self.materials, self._annotation, part, self.device, mine, batch) for part in chosen
        ]

    def _micro_batches(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Places of rows whose histories have `lengths` items."""
        return micro_batches(
            lengths * self.materials.corpus.levels, self.materials.config.learners.pass_tokens
        )

    # stage 3

    def train_groups(
        self, shards: Sequence[Shard], counts: GroupCounts, version: PolicyVersion
    ) -> dict[str, float]:
        """One optimizer step on this rank's groups of scored rollouts.

        Each shard is a RolloutBatch, its rewards, and which of its groups this rank takes (int64), at least one
        in all; the first `counts.own` of them count.
        """
        started = time.perf_counter()
        batches = self._group_batches(shards, counts, version)
        step = self._optimise([partial(self.loss, batch, counts.total, self.world_size) for batch in batches])
        return self._read(step) | {"seconds": time.perf_counter() - started}

    def _group_batches(
        self, shards: Sequence[Shard], counts: GroupCounts, version: PolicyVersion
    ) -> list[RlBatch]:
        config = self.materials.config.stages.rl
        rows = np.concatenate([batch.rows[groups] for batch, _, groups in shards])
        tokens = np.concatenate([batch.tokens[groups] for batch, _, groups in shards]).astype(np.int64)
        behaviour = np.concatenate([batch.logprobs[groups] for batch, _, groups in shards])
        advantages = np.concatenate(
            [group_advantages(rewards.total[groups], config.advantage) for _, rewards, groups in shards]
        )
        fresh = np.concatenate(
            [np.full(len(groups), batch.version == version) for batch, _, groups in shards]
        )
        filled = np.arange(counts.padded) % len(rows)
        weight = (np.arange(counts.padded) < counts.own).astype(np.float32)
        fresh = fresh[filled] * weight
        columns = tokens, behaviour, advantages
        chosen = self.materials.rows[rows[filled]]
        parts = self._micro_batches(history_lengths(self.materials.corpus, chosen))
        return [
            self._group_batch(
                chosen[part],
                [column[filled[part]] for column in columns],
                weight[part],
                fresh[part],
                fresh.sum(),
            )
            for part in parts
        ]

    def _group_batch(
        self,
        rows: np.ndarray,
        columns: Sequence[np.ndarray],
        weight: np.ndarray,
        fresh: np.ndarray,
        all_fresh: float,
    ) -> RlBatch:
        arrays = (*self.materials.prompts(rows), *columns, weight, fresh / max(all_fresh, 1))
        history, places, below, tokens, behaviour, advantages, weight_t, fresh_t = (
            to_device(array, self.device) for array in arrays
        )
        config = self.materials.config.stages.rl
        assert self.reference is not None
        with torch.no_grad(), autocast(self.materials.config, self.device):
            prompts = history, places, below
            reference = rollout_log_probs(self.reference, prompts, tokens, config, self.catalogue)
        return RlBatch(
            history,
            places,
            below,
            tokens,
            behaviour,
            reference,
            advantages,
            weight_t,
            fresh_t,
            has_fresh=all_fresh > 0,
        )

    # shared

    def _optimise(self, parts: Sequence[Callable[[], tuple[Tensor, dict[str, Tensor]]]]) -> dict[str, Tensor]:
        """One optimizer step on the sum of the parts' losses; the metrics, and the loss, are left on the device."""
        # Dropout is a function of (seed, stage, step, rank): a resumed run draws what this one would have.
        stage_number = list(FROZEN).index(self.stage)
        key = np.random.SeedSequence([self.materials.config.seed, stage_number, self.step, self.rank])
        torch.manual_seed(int(key.generate_state(1)[0]))
        values: dict[str, Tensor] = {}
        for number, compute_loss in enumerate(parts):
            with self._synchronised(number == len(parts) - 1):
                with autocast(self.materials.config, self.device):
                    loss, metrics = compute_loss()
                loss.backward()
            for name, value in (metrics | {"loss": loss}).items():
                values[name] = values.get(name, 0.0) + value.detach()
        config = self._stage_config
        rate = learning_rate(config.lr, config.warmup, self.step, self.total_steps)
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
            raise RunError(
                f"the gradient of stage {self.stage} is not finite at step {number}; try a smaller "
                f"stages.{self.stage}.lr, or model.precision: fp32"
            )
        return values

    def weights(self) -> dict[str, np.ndarray]:
        """All weights by name."""
        return export_weights(self.model)

    def vector(self, policy_only: bool) -> np.ndarray:
        """The policy's weights, or all, as one flat vector, as they are published."""
        return flatten(self.model, policy_only)

    def checkpoint(self) -> dict[str, np.ndarray]:
        """What `begin` needs to go on from here."""
        return {f"model.{name}": array for name, array in self.weights().items()} | self.optimiser.export()


def steps_per_epoch(materials: Materials, batch: int) -> int:
    """Optimizer steps of one epoch over the training rows."""
    return max(len(materials.rows) // batch, 1)
