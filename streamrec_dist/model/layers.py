"""Building blocks of the T5-like backbone: pre-RMSNorm, unscaled attention, relative position bias."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamrec_dist.model.functions import AddLinear, Dropout, NormedLinear, ReluDropout, compute_dtype
from streamrec_dist.model.kernels import EPS

NUM_BUCKETS = 32
MAX_DISTANCE = 128
#: Added to attention scores of masked keys. Finite, so that a fully masked row gives a mean, not NaN.
MASKED = -1e9


class RMSNorm(nn.Module):
    """Scale to unit root mean square, times a learned weight; no centring, no bias."""

    def __init__(self, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, EPS)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout; `p` is rounded to 1/256 (kernels.py)."""
    return Dropout.apply(x, p) if training and p else x


def relative_buckets(queries: Tensor, keys: Tensor, bidirectional: bool) -> Tensor:
    """T5's logarithmic buckets of relative positions: [.., Q] and [.., K] -> int64 [.., Q, K]."""
    distance = keys.unsqueeze(-2) - queries.unsqueeze(-1)
    buckets = NUM_BUCKETS
    offset = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    scaled = torch.log(distance.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact)
    large = (exact + (scaled * (buckets - exact)).long()).clamp(max=buckets - 1)
    return offset + torch.where(distance < exact, distance, large)


class RelativeBias(nn.Module):
    """Learned bias of each head for each bucket of relative positions, shared by a stack's layers."""

    def __init__(self, heads: int, bidirectional: bool):
        super().__init__()
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.zeros(NUM_BUCKETS, heads))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions [Q] and [K] -> bias [1, heads, Q, K]."""
        buckets = relative_buckets(queries, keys, self.bidirectional)
        return F.embedding(buckets, self.weight).permute(2, 0, 1)[None]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T + bias) v over [B, heads, length, d_head]; T5 leaves the scores unscaled."""
    bias = bias.to(q.dtype)
    if q.device.type == "cpu" and (q.shape[-2] > 1 or q.requires_grad):
        # torch's fused CPU kernel wins only on single queries (benchmarks/cpu_kernels.py).
        scores = torch.matmul(q, k.transpose(-1, -2)) + bias
        return torch.matmul(torch.softmax(scores, dim=-1), v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, heads * d_head] -> [B, heads, L, d_head]."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, L, d_head] -> [B, L, heads * d_head]."""
    return x.transpose(1, 2).flatten(2)


def normed_linear(x: Tensor, norm: RMSNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """linear(norm(x)), and x for the residual."""
    return NormedLinear.apply(x, norm.weight, linear.weight, compute_dtype(x.device))


def add_linear(x: Tensor, y: Tensor, linear: nn.Linear, rate: float) -> Tensor:
    """x + dropout(linear(y))."""
    return AddLinear.apply(x, y, linear.weight, rate)


class SelfAttention(nn.Module):
    """Self-attention with one fused projection for queries, keys and values."""

    def __init__(self, d_model: int, heads: int, d_head: int):
        super().__init__()
        self.heads = heads
        inner = heads * d_head
        self.qkv = nn.Linear(d_model, 3 * inner, bias=False)
        self.out = nn.Linear(inner, d_model, bias=False)
        with torch.no_grad():
            self.qkv.weight[:inner].normal_(std=(d_model * d_head) ** -0.5)
            self.qkv.weight[inner:].normal_(std=d_model**-0.5)
            self.out.weight.normal_(std=inner**-0.5)


class CrossAttention(nn.Module):
    """Attention from decoder positions to encoder states, with fused keys and values."""

    def __init__(self, d_model: int, heads: int, d_head: int):
        super().__init__()
        self.heads = heads
        inner = heads * d_head
        self.q = nn.Linear(d_model, inner, bias=False)
        self.kv = nn.Linear(d_model, 2 * inner, bias=False)
        self.out = nn.Linear(inner, d_model, bias=False)
        with torch.no_grad():
            self.q.weight.normal_(std=(d_model * d_head) ** -0.5)
            self.kv.weight.normal_(std=d_model**-0.5)
            self.out.weight.normal_(std=inner**-0.5)


class FeedForward(nn.Module):
    """Linear, ReLU, linear, behind a norm and a residual."""

    def __init__(self, d_model: int, d_ff: int, rate: float):
        super().__init__()
        self.rate = rate
        self.wi = nn.Linear(d_model, d_ff, bias=False)
        self.wo = nn.Linear(d_ff, d_model, bias=False)
        with torch.no_grad():
            self.wi.weight.normal_(std=d_model**-0.5)
            self.wo.weight.normal_(std=d_ff**-0.5)

    def forward(self, x: Tensor, norm: RMSNorm) -> Tensor:
        """x + dropout(wo(dropout(relu(wi(norm(x)))))), of x [..., d]."""
        up, x = normed_linear(x, norm, self.wi)
        rate = self.rate if self.training else 0.0
        return add_linear(x, ReluDropout.apply(up, rate), self.wo, rate)
