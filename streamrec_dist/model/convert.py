"""Weights to and from `transformers.T5ForConditionalGeneration`, logits equal.

The thinking decoder (or the direct one) becomes T5's decoder. T5 ties its table and scales the output by
d_model ** -0.5, as this model does; its logits of pad and bos have no counterpart here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from streamrec_dist.config import Config, ItemsConfig, ModelConfig
from streamrec_dist.errors import DataError
from streamrec_dist.model.backbone import Stack, StreamRec
from streamrec_dist.model.layers import EPS, MAX_DISTANCE, NUM_BUCKETS
from streamrec_dist.model.weights import check_shapes
from streamrec_dist.tokens import BOS, FIRST_CODE, PAD

#: What T5 can be told and this model cannot.
_FIXED = {
    "relative_attention_num_buckets": NUM_BUCKETS,
    "relative_attention_max_distance": MAX_DISTANCE,
    "layer_norm_epsilon": EPS,
    "pad_token_id": PAD,
    "decoder_start_token_id": BOS,
}

if TYPE_CHECKING:
    from transformers import T5Config, T5ForConditionalGeneration


def t5_config(config: Config) -> T5Config:
    """The transformers configuration of the same architecture."""
    from transformers import T5Config

    model = config.model
    # Called through Any: transformers declares these as dataclass fields that type checkers do not see.
    make: Any = T5Config
    return make(
        vocab_size=FIRST_CODE + config.items.levels * config.items.codes,
        d_model=model.d_model,
        d_kv=model.d_head,
        d_ff=model.d_ff,
        num_layers=model.layers,
        num_decoder_layers=model.layers,
        num_heads=model.heads,
        dropout_rate=model.dropout,
        feed_forward_proj="relu",
        **_FIXED,
        eos_token_id=None,
        tie_word_embeddings=True,
    )


def to_t5(model: StreamRec, config: Config, stack: Stack = "thinking") -> T5ForConditionalGeneration:
    """A T5ForConditionalGeneration that gives the same logits as `stack` of this model.

    Raises DataError where `config` is not the one that the model was made from.
    """
    from transformers import T5ForConditionalGeneration

    with torch.device("meta"):
        check_shapes(StreamRec(config), {name: tuple(x.shape) for name, x in model.named_parameters()})
    t5 = T5ForConditionalGeneration(t5_config(config))
    missing, unexpected = t5.load_state_dict(_t5_tensors(model, stack), strict=False)
    # Tied aliases of the table may be listed as missing; anything else would be a silent mistake.
    wrong = [name for name in missing if not name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    if wrong or unexpected:
        raise DataError(f"this version of transformers lays T5 out differently: {[*wrong, *unexpected]}")
    t5.tie_weights()
    return t5.eval()


def from_t5(t5: T5ForConditionalGeneration, levels: int, codes: int) -> tuple[StreamRec, Config]:
    """A StreamRec whose thinking and direct decoders both hold T5's decoder.

    Raises DataError for a T5 of another kind: gated feed-forward, untied table, another vocabulary or start token,
    other positions.
    """
    given = t5.config
    needed = FIRST_CODE + levels * codes
    if given.vocab_size != needed:
        raise DataError(
            f"T5 has {given.vocab_size} tokens; {levels} levels of {codes} codes need {needed}: give the levels and "
            "codes of the ids that it was trained on"
        )
    for name, expected in _FIXED.items():
        if getattr(given, name) != expected:
            raise DataError(
                f"T5 has {name} {getattr(given, name)}, this model is made for {expected}; only a T5 configured as "
                "t5_config does can be converted"
            )
    if given.is_gated_act or not given.tie_word_embeddings or given.num_layers != given.num_decoder_layers:
        raise DataError(
            "only T5 with a plain ReLU feed-forward, a tied table and equal depths can be converted"
        )
    config = Config(
        items=ItemsConfig(levels=levels, codes=codes),
        model=ModelConfig(
            d_model=given.d_model,
            layers=given.num_layers,
            heads=given.num_heads,
            d_head=given.d_kv,
            d_ff=given.d_ff,
            dropout=given.dropout_rate,
        ),
    )
    model = StreamRec(config)
    source = t5.state_dict()
    with torch.no_grad():
        for stack in ("thinking", "direct"):
            for name, parts in _mapping(config.model.layers, stack).items():
                model.get_parameter(name).copy_(torch.cat([source[part] for part in parts]))
    return model.eval(), config


def _t5_tensors(model: StreamRec, stack: Stack) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, parts in _mapping(len(model.encoder.layers), stack).items():
        value = model.get_parameter(name).detach()
        for part, piece in zip(parts, value.chunk(len(parts)), strict=True):
            tensors[part] = piece.clone()
    return tensors


def _mapping(layers: int, stack: Stack) -> dict[str, list[str]]:
    """Our parameter -> T5's parameters, to be joined along the first dimension."""
    decoder = "decoder" if stack == "thinking" else "direct"
    names = {"embed.weight": ["shared.weight"]}
    for ours, theirs in (("encoder", "encoder"), (decoder, "decoder")):
        first = f"{theirs}.block.0.layer.0.SelfAttention"
        names[f"{ours}.bias.weight"] = [f"{first}.relative_attention_bias.weight"]
        names[f"{ours}.norm.weight"] = [f"{theirs}.final_layer_norm.weight"]
        for i in range(layers):
            block, layer = f"{theirs}.block.{i}.layer", f"{ours}.layers.{i}"
            names |= {
                f"{layer}.attention_norm.weight": [f"{block}.0.layer_norm.weight"],
                f"{layer}.attention.qkv.weight": [f"{block}.0.SelfAttention.{x}.weight" for x in "qkv"],
                f"{layer}.attention.out.weight": [f"{block}.0.SelfAttention.o.weight"],
            }
            last = 1 if theirs == "encoder" else 2
            names |= {
                f"{layer}.feed_forward_norm.weight": [f"{block}.{last}.layer_norm.weight"],
                f"{layer}.feed_forward.wi.weight": [f"{block}.{last}.DenseReluDense.wi.weight"],
                f"{layer}.feed_forward.wo.weight": [f"{block}.{last}.DenseReluDense.wo.weight"],
            }
            if theirs == "decoder":
                names |= {
                    f"{layer}.cross_norm.weight": [f"{block}.1.layer_norm.weight"],
                    f"{layer}.cross.q.weight": [f"{block}.1.EncDecAttention.q.weight"],
                    f"{layer}.cross.kv.weight": [f"{block}.1.EncDecAttention.{x}.weight" for x in "kv"],
                    f"{layer}.cross.out.weight": [f"{block}.1.EncDecAttention.o.weight"],
                }
    return names
