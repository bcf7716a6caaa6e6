"""The decoder stack. Its rows are grouped by prompt, so that encoder keys and values are never repeated.

A group is the R decoder sequences of one prompt: G rollouts, W beams, or target and negative. Self-attention
sees P * R independent sequences of T tokens; cross-attention sees P prompts with R * T query rows each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamrec_dist.config import ModelConfig
from streamrec_dist.model import functions as attention
from streamrec_dist.model.functions import compute_dtype
from streamrec_dist.model.layers import (
    MASKED,
    CrossAttention,
    FeedForward,
    RelativeBias,
    RMSNorm,
    SelfAttention,
    add_linear,
    attend,
    dropout,
    merge_heads,
    normed_linear,
    split_heads,
)

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Memory:
    """What a decoder attends to: encoder states [P, S, d], their mask, and every layer's keys and values."""

    states: Tensor
    mask: Tensor  # bool [P, S]
    bias: Tensor  # [P, 1, 1, S]
    cross: list[Tensor]  # per layer, [P, S, 2 * inner]

    @property
    def prompts(self) -> int:
        return len(self.states)


@dataclass
class DecoderCache:
    """Keys and values of the tokens decoded so far: per layer [P * R, heads, T, d_head]."""

    layers: list[KeysValues]

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[2] if self.layers else 0

    def select(self, rows: Tensor) -> DecoderCache:
        """The cache of rows [N] (int64, of P * R), in that order: repeats, reorders or drops rows."""
        return DecoderCache([(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.layers])


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each behind a pre-norm and a residual."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.rate = config.dropout
        self.attention_norm = RMSNorm(config.d_model)
        self.attention = SelfAttention(config.d_model, config.heads, config.d_head)
        self.cross_norm = RMSNorm(config.d_model)
        self.cross = CrossAttention(config.d_model, config.heads, config.d_head)
        self.feed_forward_norm = RMSNorm(config.d_model)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.dropout)

    def forward(
        self, x: Tensor, bias: Tensor, past: KeysValues | None, keys_values: Tensor, padding: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """x [P, R, T, d] -> the same, and the grown cache.

        `bias` broadcasts to [P * R, heads, T, past + T]; `keys_values` [P, S, 2 * inner] are of the encoder's
        states, and `padding` [P, 1, 1, S] is their bias.
        """
        prompts, group, length, _ = x.shape
        rate = self.rate if self.training else 0.0
        qkv, x = normed_linear(x, self.attention_norm, self.attention.qkv)
        parts = qkv.view(prompts * group, length, -1).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.attention.heads) for part in parts)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        x = add_linear(x, merge_heads(attend(q, k, v, bias)), self.attention.out, rate)

        queries, x = normed_linear(x, self.cross_norm, self.cross.q)
        queries = queries.view(prompts, group * length, -1)
        looked_up = attention.CrossAttention.apply(queries, keys_values, padding, self.cross.heads)
        x = add_linear(x, looked_up, self.cross.out, rate)
        return self.feed_forward(x, self.feed_forward_norm), (k, v)


class Decoder(nn.Module):
    """Causal stack over thoughts and item codes."""

    def __init__(self, config: ModelConfig, levels: int = 0):
        """With `levels` of codes, it has weights of its logits and of evidence at each, and in thoughts."""
        super().__init__()
        self.evidence = nn.Parameter(torch.ones(2, levels + 1)) if levels else None
        self.rate = config.dropout
        self.bias = RelativeBias(config.heads, bidirectional=False)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.d_model)

    def memory(self, states: Tensor, mask: Tensor, bias: Tensor) -> Memory:
        """Encoder states [P, S, d] -> the keys and values of this stack's layers, computed once."""
        # Cast once for all layers.
        given = states.to(compute_dtype(states.device))
        layers = [layer for layer in self.layers if isinstance(layer, DecoderLayer)]
        return Memory(states, mask, bias, [layer.cross.kv(given) for layer in layers])

    def forward(
        self, embedded: Tensor, memory: Memory, cache: DecoderCache | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor, DecoderCache]:
        """Embedded tokens [P, R, T, d], after those in `cache` -> last states [P, R, T, d] and the grown cache.

        `bias` replaces the causal self-attention bias; it broadcasts to [P * R, heads, T, cached + T].
        """
        cached = cache.length if cache else 0
        if bias is None:
            bias = self.causal_bias(cached, embedded.shape[2], embedded.device)
        x = dropout(embedded, self.rate, self.training)
        grown = []
        for index, layer in enumerate(self.layers):
            past = cache.layers[index] if cache else None
            x, keys_values = layer(x, bias, past, memory.cross[index], memory.bias)
            grown.append(keys_values)
        return dropout(self.norm(x), self.rate, self.training), DecoderCache(grown)

    def causal_bias(self, cached: int, length: int, device: torch.device) -> Tensor:
        """Self-attention bias [1, heads, length, cached + length] of `length` tokens after `cached` others."""
        keys = torch.arange(cached + length, device=device)
        queries = keys[cached:]
        future = torch.where(keys[None] > queries[:, None], MASKED, 0.0)
        return self.bias(queries, keys) + future
