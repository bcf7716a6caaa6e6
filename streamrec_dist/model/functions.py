"""The layers' parts as autograd functions: what is saved, and the fewest passes over memory each way.

Matrix products are of `dtype` (bf16 under autocast), the residual stream is float32. A norm's weight is multiplied
into the matrix after it, as the decoding engine does, so that learner and rollouts round alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from streamrec_dist.model import kernels


def compute_dtype(device: torch.device) -> torch.dtype:
    """The type of matrix products here: autocast's, or float32."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return torch.float32


class NormedLinear(Function):
    """(x [.., d], gain [d], weight [out, d]) -> linear(rms_norm(x) * gain, weight) [.., out] in `dtype`, and x.

    The residual takes the returned x: its gradient then comes back here and is added in the norm's own pass.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, weight: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            normed, inverse = kernels.unit_rms(x.reshape(-1, x.shape[-1]), dtype)
            matrix = (weight * gain).to(dtype)
            ctx.save_for_backward(normed, inverse, gain, weight, matrix)
            return (normed @ matrix.t()).view(*x.shape[:-1], -1), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, through: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normed, inverse, gain, weight, matrix = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        of_matrix = (flat.t() @ normed).float()
        of_x = kernels.unit_rms_gradient(flat @ matrix, normed, inverse, through.reshape(normed.shape))
        return of_x.view(through.shape), (of_matrix * weight).sum(dim=0), of_matrix * gain, None


class AddLinear(Function):
    """(x [.., d] float32, y [.., in], weight [d, in]) -> x + dropout(linear(y, weight))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor, rate: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            ctx.drop = kernels.new_drop(rate, x.device)
            matrix = weight.to(y.dtype)
            ctx.save_for_backward(y, matrix)
            added = (y.reshape(-1, y.shape[-1]) @ matrix.t()).view(x.shape)
            return kernels.add_dropout(x, added, ctx.drop)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        y, matrix = ctx.saved_tensors
        dropped = kernels.dropout_gradient(gradient, ctx.drop, y.dtype).view(-1, len(matrix))
        of_weight = (dropped.t() @ y.reshape(-1, y.shape[-1])).float()
        return gradient, (dropped @ matrix).view(y.shape), of_weight, None


class Dropout(Function):
    """dropout(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        ctx.drop = kernels.new_drop(rate, x.device)
        return kernels.dropout(x, ctx.drop)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return kernels.dropout(gradient, ctx.drop), None


class ReluDropout(Function):
    """dropout(relu(x))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            ctx.drop = kernels.new_drop(rate, x.device)
            out = kernels.relu_dropout(x, ctx.drop)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return kernels.relu_dropout_gradient(gradient, *ctx.saved_tensors, ctx.drop), None


class SelfAttention(Function):
    """softmax(q k^T + relative + padding) v of qkv [B, L, 3 * inner]: [B, L, inner].

    relative [1, heads, L, L] takes a gradient, padding [B, 1, 1, L] does not.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, relative: Tensor, padding: Tensor, heads: int) -> Tensor:
        with torch.autocast(qkv.device.type, enabled=False):
            q, k, v = _split(qkv, 3, heads)
            weights, out = _attend(q, k, v, relative, padding)
        ctx.save_for_backward(q, k, v, weights)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, k, v, weights = ctx.saved_tensors
        each = torch.empty((3, *q.shape), dtype=q.dtype, device=q.device)
        of_scores = _attend_gradient(gradient, q, k, v, weights, *each)
        relative = of_scores.sum(dim=0, keepdim=True, dtype=torch.float32)
        return _join(each), relative, None, None


class CrossAttention(Function):
    """softmax(q k^T + padding) v of queries q [B, Q, inner] and kv [B, K, 2 * inner]: [B, Q, inner]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, padding: Tensor, heads: int) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            (queries,), (keys, values) = _split(q, 1, heads), _split(kv, 2, heads)
            weights, out = _attend(queries, keys, values, None, padding)
        ctx.save_for_backward(queries, keys, values, weights)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, k, v, weights = ctx.saved_tensors
        of_q = torch.empty((1, *q.shape), dtype=q.dtype, device=q.device)
        of_kv = torch.empty((2, *k.shape), dtype=k.dtype, device=k.device)
        _attend_gradient(gradient, q, k, v, weights, *of_q, *of_kv)
        return _join(of_q), _join(of_kv), None, None


def _split(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, L, parts * inner] -> `parts` tensors [B, heads, L, d_head]."""
    apart = x.view(*x.shape[:2], parts, heads, x.shape[-1] // (parts * heads))
    return apart.permute(2, 0, 3, 1, 4).contiguous().unbind(0)


def _join(x: Tensor) -> Tensor:
    """[parts, B, heads, L, d_head] -> [B, L, parts * inner]."""
    return x.permute(1, 3, 0, 2, 4).reshape(x.shape[1], x.shape[3], -1)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, relative: Tensor | None, padding: Tensor
) -> tuple[Tensor, Tensor]:
    """The softmax [B, heads, Q, K], and what it looks up [B, Q, inner]."""
    weights = kernels.biased_softmax(q @ k.transpose(-1, -2), relative, padding)
    return weights, (weights @ v).transpose(1, 2).flatten(2)


def _attend_gradient(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    of_q: Tensor,
    of_k: Tensor,
    of_v: Tensor,
) -> Tensor:
    """Fill in the gradients of q, k and v; returns that of the scores [B, heads, Q, K]."""
    of_out = gradient.view(len(q), -1, q.shape[1], q.shape[-1]).transpose(1, 2).contiguous().flatten(0, 1)
    flat = weights.flatten(0, 1)
    torch.bmm(flat.transpose(1, 2), of_out, out=of_v.flatten(0, 1))
    of_weights = torch.bmm(of_out, v.flatten(0, 1).transpose(1, 2)).view_as(weights)
    of_scores = kernels.softmax_gradient(of_weights, weights)
    torch.bmm(of_scores.flatten(0, 1), k.flatten(0, 1), out=of_q.flatten(0, 1))
    torch.bmm(of_scores.flatten(0, 1).transpose(1, 2), q.flatten(0, 1), out=of_k.flatten(0, 1))
    return of_scores
