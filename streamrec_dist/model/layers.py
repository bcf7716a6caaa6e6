"""Building blocks of the T5-like backbone: pre-RMSNorm, unscaled attention, relative position bias."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_BUCKETS = 32
MAX_DISTANCE = 128
EPS = 1e-6
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
    """Dropout; on the CPU the mask is drawn a byte an element, so `p` is rounded to 1/256.

    torch draws one random word an element on one thread, which on a small model costs as much as
    the matrix products; eight elements a word is 4 to 8 times cheaper.
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p, True)
    threshold = min(max(round(p * 256), 1), 255)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return x * keep * (256 / (256 - threshold))


def relative_buckets(queries: Tensor, keys: Tensor, bidirectional: bool) -> Tensor:
    """T5's logarithmic buckets of relative positions: int64 [len(queries), len(keys)]."""
    distance = keys[None, :] - queries[:, None]
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

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, L, d] -> queries, keys, values, each [B, heads, L, d_head]."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)


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

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [P, S, d] -> keys and values, each [P, heads, S, d_head]."""
        k, v = self.kv(states).chunk(2, dim=-1)
        return split_heads(k, self.heads), split_heads(v, self.heads)


class FeedForward(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, d_model: int, d_ff: int, rate: float):
        super().__init__()
        self.rate = rate
        self.wi = nn.Linear(d_model, d_ff, bias=False)
        self.wo = nn.Linear(d_ff, d_model, bias=False)
        with torch.no_grad():
            self.wi.weight.normal_(std=d_model**-0.5)
            self.wo.weight.normal_(std=d_ff**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(dropout(F.relu(self.wi(x)), self.rate, self.training))
