"""Passes over memory between the matrix products of training: each a pure function, compiled on request.

As they stand here they are plain torch. `compile_kernels` has torch.compile fuse each into one loop (C++ on the CPU,
Triton on a GPU), which then draws dropout masks from a hash instead of a generator: no mask is ever stored.
The same Drop draws the same mask, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from streamrec_dist.errors import EnvironmentProblem, summary

EPS = 1e-6


class Kernel:
    """A function of tensors, plain until it is compiled."""

    every: ClassVar[list[Kernel]] = []
    #: Whether this process compiles them.
    compiling: ClassVar[bool] = False

    def __init__(self, function: Callable[..., Any]):
        self.plain = self.run = function
        self._compiled: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__
        Kernel.every.append(self)

    def __call__(self, *args: Any) -> Any:
        return self.run(*args)

    def choose(self, compiled: bool) -> None:
        if compiled and self._compiled is None:
            # Dynamic: batches of every length share one loop.
            self._compiled = torch.compile(self.plain, dynamic=True)
        self.run = self._compiled if compiled and self._compiled else self.plain


class Elementwise(Kernel):
    """A kernel of one shape of tensors, which it gets flat: compiled code is then the same for all shapes."""

    def __call__(self, first: Tensor, *rest: Any) -> Tensor:
        flat = (value.detach().reshape(-1) if isinstance(value, Tensor) else value for value in rest)
        return self.run(first.detach().reshape(-1), *flat).view(first.shape)


def compile_kernels(enabled: bool, device: str = "cpu") -> None:
    """Let this process run the kernels compiled, or plain; compiling happens at a kernel's first call.

    Raises EnvironmentProblem where torch cannot compile for `device`.
    """
    Kernel.compiling = enabled
    for kernel in Kernel.every:
        kernel.choose(enabled)
    if enabled:
        try:
            unit_rms(torch.ones(2, 2, device=device), torch.float32)
        except Exception as error:
            # Whatever is wrong with a compiler, torch has a class for it.
            needed = "a C++ compiler such as g++" if device == "cpu" else "Triton and a C compiler"
            raise EnvironmentProblem(
                f"learners.compile: true needs {needed}, and torch.compile fails here: {summary(error)}"
            ) from error


class Drop(NamedTuple):
    """What decides over a dropout's mask, as tensors, which a compiled kernel does not specialise on."""

    seed: Tensor  # int32 []
    cut: Tensor  # int32 []  uniform integers below are dropped
    scale: Tensor  # float32 []  1 / (1 - rate)
    hashed: bool  # whether the mask is a hash of places, or drawn by a generator


def new_drop(rate: float, device: torch.device) -> Drop | None:
    """A dropout seeded from torch's generator of the device; None at rate 0. Rates are rounded to 1 / 256."""
    if rate == 0:
        return None
    seed = torch.randint(-(2**31), 2**31 - 1, (), dtype=torch.int32, device=device)
    return Drop(seed, *_cut(rate, device), hashed=Kernel.compiling or device.type != "cpu")


@lru_cache
def _cut(rate: float, device: torch.device) -> tuple[Tensor, Tensor]:
    # Eighths of a word: that is what the masks drawn by a generator are made of.
    threshold = min(max(round(rate * 256), 1), 255)
    cut = torch.tensor(threshold * 2**24 - 2**31, dtype=torch.int32, device=device)
    return cut, torch.tensor(256 / (256 - threshold), device=device)


@Kernel
def unit_rms(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of x float32 [n, d] at unit root mean square, in `dtype`, and the inverse of what it was [n, 1]."""
    inverse = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + EPS)
    return (x * inverse).to(dtype), inverse


@Kernel
def unit_rms_gradient(gradient: Tensor, normed: Tensor, inverse: Tensor, through: Tensor) -> Tensor:
    """The gradient of x, float32 [n, d], from that of `normed`, added to what came `through` a residual."""
    normed = normed.float()
    along = (gradient * normed).mean(dim=-1, keepdim=True)
    return through + (gradient - normed * along) * inverse


@Elementwise
def relu_dropout(x: Tensor, drop: Drop | None) -> Tensor:
    """dropout(relu(x))."""
    return _kept(torch.relu(x), drop)


@Elementwise
def relu_dropout_gradient(gradient: Tensor, out: Tensor, drop: Drop | None) -> Tensor:
    """The gradient of relu_dropout's x, from that of its `out`, which is 0 where either cut off."""
    passed = torch.ops.aten.threshold_backward(gradient, out, 0)
    return passed * drop.scale if drop else passed


@Elementwise
def dropout(x: Tensor, drop: Drop | None) -> Tensor:
    """dropout(x), and of the gradient of its result that of x."""
    return _kept(x, drop)


@Elementwise
def add_dropout(x: Tensor, y: Tensor, drop: Drop | None) -> Tensor:
    """x + dropout(y), of float32 and any type."""
    return x + _kept(y, drop)


@Elementwise
def dropout_gradient(gradient: Tensor, drop: Drop | None, dtype: torch.dtype) -> Tensor:
    """The gradient of add_dropout's y, in `dtype`."""
    return _kept(gradient.to(dtype), drop)


@Kernel
def biased_softmax(scores: Tensor, relative: Tensor | None, padding: Tensor) -> Tensor:
    """softmax(scores + relative + padding) of [B, heads, Q, K], [1, heads, Q, K] and [B, 1, 1, K]; spoils scores."""
    # In place, but not for a compiler, which finds the fewest passes by itself (and in torch 2.13 fails on one row).
    in_place = not torch.compiler.is_compiling()
    for bias in (relative, padding):
        if bias is not None:
            scores = scores.add_(bias) if in_place else (scores + bias).to(scores.dtype)
    return torch.softmax(scores, dim=-1)


@Kernel
def softmax_gradient(gradient: Tensor, weights: Tensor) -> Tensor:
    """The gradient of the scores, from that of the softmax's `weights`."""
    return torch.ops.aten._softmax_backward_data(gradient, weights, -1, weights.dtype)


def _kept(x: Tensor, drop: Drop | None) -> Tensor:
    """Dropout of x: zero with probability `rate`, scaled up otherwise."""
    if drop is None:
        return x
    if drop.hashed:
        return torch.where(_hash(x, drop.seed) >= drop.cut, x * drop.scale, 0.0)
    return x * _drawn(x, drop)


def _hash(x: Tensor, seed: Tensor) -> Tensor:
    """Uniform int32, one for each place in x; masks of two seeds are not one another's shifted."""
    place = torch.arange(x.numel(), dtype=torch.int32, device=x.device)
    return _mixed(_mixed(place) ^ seed)


def _mixed(key: Tensor) -> Tensor:
    """A hash of int32 whose every output bit depends on every input bit."""
    # Shifts carry the sign in; the masks take it out again.
    key = (key ^ ((key >> 16) & 0xFFFF)) * 0x7FEB352D
    key = (key ^ ((key >> 15) & 0x1FFFF)) * -2073254261
    return key ^ ((key >> 16) & 0xFFFF)


def _drawn(x: Tensor, drop: Drop) -> Tensor:
    """0 or `scale` for each element of x, on the CPU.

    torch's own dropout draws a word an element on one thread, which on a small model costs as much as the products,
    and torch compares bytes and converts booleans one by one. So eight elements share a word, and integers of x's
    width, all bits set or none, mask the bits of the scale.
    """
    generator = torch.Generator().manual_seed(int(drop.seed) % 2**32)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    width = {2: torch.int16, 4: torch.int32}[x.element_size()]
    bytes_ = words.view(torch.int8)[: x.numel()].view(x.shape).to(width)
    # The sign of the difference, spread over all bits: set where a byte is not below the cut's highest byte.
    masks = torch.sub((int(drop.cut) >> 24) - 1, bytes_, out=bytes_).bitwise_right_shift_(
        8 * x.element_size() - 1
    )
    return masks.bitwise_and_(drop.scale.to(x.dtype).view(width)).view(x.dtype)
