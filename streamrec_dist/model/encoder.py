"""The encoder stack: histories to states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamrec_dist.config import ModelConfig
from streamrec_dist.model import functions as attention
from streamrec_dist.model.layers import (
    MASKED,
    FeedForward,
    RelativeBias,
    RMSNorm,
    SelfAttention,
    add_linear,
    dropout,
    normed_linear,
)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each behind a pre-norm and a residual."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.rate = config.dropout
        self.attention_norm = RMSNorm(config.d_model)
        self.attention = SelfAttention(config.d_model, config.heads, config.d_head)
        self.feed_forward_norm = RMSNorm(config.d_model)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.dropout)

    def forward(self, x: Tensor, relative: Tensor, padding: Tensor) -> Tensor:
        """x [P, S, d], biases [1, heads, S, S] and [P, 1, 1, S]."""
        qkv, x = normed_linear(x, self.attention_norm, self.attention.qkv)
        attended = attention.SelfAttention.apply(qkv, relative, padding, self.attention.heads)
        x = add_linear(x, attended, self.attention.out, self.rate if self.training else 0.0)
        return self.feed_forward(x, self.feed_forward_norm)


class Encoder(nn.Module):
    """Bidirectional stack over history tokens."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.rate = config.dropout
        self.bias = RelativeBias(config.heads, bidirectional=True)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.d_model)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Embedded tokens [P, S, d] and their mask bool [P, S] -> states [P, S, d]."""
        positions = torch.arange(embedded.shape[1], device=embedded.device)
        relative, padding = self.bias(positions, positions), memory_bias(mask)
        x = dropout(embedded, self.rate, self.training)
        for layer in self.layers:
            x = layer(x, relative, padding)
        return dropout(self.norm(x), self.rate, self.training)


def memory_bias(mask: Tensor) -> Tensor:
    """Mask bool [P, S] -> attention bias [P, 1, 1, S]: 0 where there is a token, MASKED elsewhere."""
    return torch.where(mask, 0.0, MASKED)[:, None, None, :]
