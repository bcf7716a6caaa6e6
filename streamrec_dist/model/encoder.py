"""The encoder stack: histories to states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamrec_dist.config import ModelConfig
from streamrec_dist.model.layers import (
    MASKED,
    FeedForward,
    RelativeBias,
    RMSNorm,
    SelfAttention,
    attend,
    dropout,
    merge_heads,
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

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.attention.project(self.attention_norm(x))
        attended = self.attention.out(merge_heads(attend(q, k, v, bias)))
        x = x + dropout(attended, self.rate, self.training)
        return x + dropout(self.feed_forward(self.feed_forward_norm(x)), self.rate, self.training)


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
        bias = self.bias(positions, positions) + memory_bias(mask)
        x = dropout(embedded, self.rate, self.training)
        for layer in self.layers:
            x = layer(x, bias)
        return dropout(self.norm(x), self.rate, self.training)


def memory_bias(mask: Tensor) -> Tensor:
    """Mask bool [P, S] -> attention bias [P, 1, 1, S]: 0 where there is a token, MASKED elsewhere."""
    return torch.where(mask, 0.0, MASKED)[:, None, None, :]
