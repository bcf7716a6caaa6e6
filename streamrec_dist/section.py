"""What the sections of the configuration are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the tree: frozen, and strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Optimiser(Section):
    """AdamW with linear warm-up and cosine decay."""

    lr: float = Field(1e-3, gt=0, lt=1)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps spent warming up")
    weight_decay: float = Field(0.01, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)


class Epochs(Optimiser):
    """Passes over the training rows until validation NDCG@10 stops rising."""

    epochs: int = Field(30, ge=1)
    batch: int = Field(256, ge=2)
    patience: int = Field(5, ge=1, description="evaluations without a better validation NDCG@10")
    eval_every: int = Field(1, ge=1, description="epochs between evaluations")
    eval_users: int = Field(1000, ge=1, description="validation users of an evaluation while training")
