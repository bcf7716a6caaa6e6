"""The names of the baselines, and their sections of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from streamrec_dist.section import Epochs, Section

#: Baselines that are models over item ids (baselines/item_model.py).
ITEM_MODELS = ("sasrec", "sasrec-bce", "gru4rec")
#: What scores every item of the catalogue: these, and the retriever.
SCORES_ITEMS = ("retrieve", *ITEM_MODELS)
#: Baselines that are trained; the others are counted when they are evaluated (stages/evaluate.py).
TRAINED = (*ITEM_MODELS, "tiger")


class ItemModelConfig(Epochs):
    """A model over item ids."""

    d_model: int = Field(64, ge=4)
    layers: int = Field(2, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, lt=1)
    epochs: int = Field(40, ge=1)
    eval_users: int = Field(2000, ge=1, description="validation users of an evaluation while training")


class AttentionConfig(ItemModelConfig):
    """One whose layers are self-attention."""

    heads: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> AttentionConfig:
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} does not divide by heads {self.heads}")
        return self


class SasRecConfig(AttentionConfig):
    """SASRec with a softmax, which takes larger steps and fewer epochs than one negative a row does."""

    lr: float = Field(3e-3, gt=0, lt=1)
    epochs: int = Field(20, ge=1)


class GruConfig(ItemModelConfig):
    """One whose layers are recurrent."""

    hidden: int = Field(128, ge=4, description="width of the recurrent state")
    layers: int = Field(1, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)


class TigerConfig(Epochs):
    """TIGER: the model section's encoder, and its direct decoder, trained alone."""

    softmax: Literal["trie", "codes"] = Field(
        "codes", description="as model.softmax; codes is TIGER as published"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="share of activations dropped in training; model.dropout where left out"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of a token's probability for all that it competes with"
    )
    history_dropout: float = Field(0.0, ge=0, lt=1, description="share of history items left out in training")


class BaselinesConfig(Section):
    """The baselines that are trained."""

    sasrec: SasRecConfig = SasRecConfig()
    sasrec_bce: AttentionConfig = AttentionConfig()
    gru4rec: GruConfig = GruConfig()
    tiger: TigerConfig = TigerConfig()

    def of(self, name: str) -> AttentionConfig | GruConfig | TigerConfig:
        """The section of a baseline by name."""
        return getattr(self, name.replace("-", "_"))


def section_name(stage: str) -> str:
    """Where the configuration of a stage, or of a baseline that is trained, stands in the tree."""
    return f"baselines.{stage.replace('-', '_')}" if stage in TRAINED else f"stages.{stage}"
