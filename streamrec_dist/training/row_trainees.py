"""Stages 1 and 2 as trainees: the recommender on training rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from streamrec_dist.config import PretrainConfig, SftConfig
from streamrec_dist.errors import RunError
from streamrec_dist.materials import Materials
from streamrec_dist.training.pretrain_loss import PretrainBatch, PretrainLoss, pretrain_batch
from streamrec_dist.training.sft_loss import SftBatch, SftLoss, all_item_tokens, sft_batch
from streamrec_dist.training.trainee import RecommenderTrainee
from streamrec_dist.types import Annotation

#: Learning rate of the few numbers that are calibrated.
CALIBRATION_RATE = 0.02


class SupervisedTrainee(RecommenderTrainee):
    """The recommender on the rows that stage 3 does not keep for its prompts."""

    @property
    def rows(self) -> np.ndarray:
        return self.materials.supervised


class PretrainTrainee(SupervisedTrainee):
    """Stage 1: both decoders; the thinking heads wait for stage 2."""

    frozen = ("heads.",)

    @property
    def config(self) -> PretrainConfig:
        return self.whole_config.stages.pretrain

    def started(self) -> nn.Module:
        return PretrainLoss(self.model, self.config, self.catalogue).train()

    def batch(self, rows: np.ndarray, share: float) -> PretrainBatch:
        return pretrain_batch(self.materials, rows, self.device, share)


class SftTrainee(SupervisedTrainee):
    """Stage 2: the thinking decoder with its heads, on annotated rows; the direct decoder is pi_ref by now."""

    frozen = ("direct.",)

    def __init__(self, materials: Materials, device: torch.device):
        super().__init__(materials, device)
        self.annotation: Annotation | None = None

    @property
    def config(self) -> SftConfig:
        return self.whole_config.stages.sft

    def started(self) -> nn.Module:
        items = all_item_tokens(self.materials)
        return SftLoss(self.model, self.config, items, self.catalogue).to(self.device).train()

    @property
    def first(self) -> int:
        """The number of the first row that is learnt, among all training rows."""
        return 0

    def annotate(self, parts: Sequence[Annotation]) -> None:
        """Take the annotations of a round; together they cover the rows that are learnt."""
        parts = sorted(parts, key=lambda part: part.first)
        columns = ("thoughts", "own", "negatives", "reference_target", "reference_negative")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
        if (parts[0].first, len(joined["own"])) != (self.first, len(self.rows)):
            raise RunError(f"annotations cover {len(joined['own'])} of {len(self.rows)} training rows")
        self.annotation = Annotation(first=self.first, **joined)

    def parts(self, mine: np.ndarray, step: np.ndarray) -> list[SftBatch]:
        if self.annotation is None:
            raise RunError("stage sft trains on annotations, and none were given")
        mine, step = mine + self.first, step + self.first
        return [
            sft_batch(self.materials, self.annotation, mine[part], self.device, mine, step)
            for part in self.micro_batches(self.materials.rows[mine])
        ]


class CalibrationTrainee(SftTrainee):
    """How far a finished decoder is trusted beside evidence, learnt from the rows that it has not learnt.

    Its logits are sharper on rows that it has seen: weights learnt there would trust it too much. A few numbers are
    trained, without dropout, on the likelihood of thoughts and items alone.
    """

    only = ("decoder.evidence",)

    @property
    def config(self) -> SftConfig:
        own = {"lr": CALIBRATION_RATE, "weight_decay": 0.0, "dpo": 0.0, "quantisation": 0.0, "state": 0.0}
        return super().config.model_copy(update=own)

    @property
    def first(self) -> int:
        return self.materials.first_prompt

    @property
    def rows(self) -> np.ndarray:
        return self.materials.rows[self.first :]

    def started(self) -> nn.Module:
        return super().started().eval()
