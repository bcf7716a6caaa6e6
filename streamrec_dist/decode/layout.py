"""A model's weights laid out for decoding: matrices [in, out] of one precision that take the norms' weights in.

What is laid out keeps its memory: new weights of the same model are written over the old ones, so that captured
graphs stay valid and nothing is allocated for a new version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from streamrec_dist.model.decoder import Decoder, DecoderLayer
from streamrec_dist.model.encoder import Encoder, EncoderLayer


@dataclass(frozen=True)
class Attention:
    """Matrices [in, out] of self-attention, or of cross-attention's queries and output."""

    project: Tensor  # [d, 3 * inner], or [d, inner]
    out: Tensor  # [inner, d]


@dataclass(frozen=True)
class FeedForward:
    up: Tensor  # [d, d_ff]
    down: Tensor  # [d_ff, d]


@dataclass(frozen=True)
class Layer:
    """One layer; `cross`, without its keys and values, only in decoders."""

    own: Attention
    cross: Attention | None
    feed: FeedForward


@dataclass(frozen=True)
class EncoderStack:
    layers: list[Layer]
    norm: Tensor  # [d]
    bias: Tensor  # [buckets, heads]


@dataclass(frozen=True)
class DecoderStack:
    layers: list[Layer]
    keys_values: Tensor  # [d, layers * 2 * inner], of all layers' cross-attention
    norm: Tensor  # [d]
    bias: Tensor  # [buckets, heads]


class Layout:
    """Lays weights out in `dtype`, and once more in the same memory after they have changed."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self._fills: list[Callable[[], object]] = []

    @torch.no_grad()
    def refresh(self) -> None:
        """Write the weights as they are now over all that has been laid out."""
        for fill in self._fills:
            fill()

    @torch.no_grad()
    def matrix(self, weight: Tensor, scale: Tensor | float | None = None) -> Tensor:
        """A Linear's weight [out, in], times `scale`, a number or a norm's weight [in], as a matrix [in, out]."""
        weight = weight.detach()
        if scale is None and weight.dtype == self.dtype:
            return weight.t()  # the model's own memory: always as new as the model
        laid = torch.empty_like(weight, dtype=self.dtype)

        def fill() -> None:
            if scale is None:
                laid.copy_(weight)
            else:
                torch.mul(weight, scale, out=laid)

        return self._kept(laid, fill).t()

    @torch.no_grad()
    def joined(self, weights: list[Tensor]) -> Tensor:
        """Linear weights [out, in] side by side as one matrix [in, all outs]."""
        laid = weights[0].new_empty((sum(map(len, weights)), weights[0].shape[1]), dtype=self.dtype)
        parts = laid.split([len(weight) for weight in weights])

        def fill() -> None:
            for part, weight in zip(parts, weights, strict=True):
                part.copy_(weight)

        return self._kept(laid, fill).t()

    def encoder(self, module: Encoder) -> EncoderStack:
        layers = [self._layer(layer) for layer in module.layers]
        return EncoderStack(layers, module.norm.weight.detach(), module.bias.weight.detach())

    def decoder(self, module: Decoder) -> DecoderStack:
        layers = [layer for layer in module.layers if isinstance(layer, DecoderLayer)]
        return DecoderStack(
            [self._layer(layer) for layer in layers],
            self.joined([layer.cross.kv.weight for layer in layers]),
            module.norm.weight.detach(),
            module.bias.weight.detach(),
        )

    def _layer(self, layer: torch.nn.Module) -> Layer:
        assert isinstance(layer, EncoderLayer | DecoderLayer)
        own, feed = layer.attention, layer.feed_forward
        cross = None
        if isinstance(layer, DecoderLayer):
            queries = self.matrix(layer.cross.q.weight, layer.cross_norm.weight)
            cross = Attention(queries, self.matrix(layer.cross.out.weight))
        return Layer(
            Attention(self.matrix(own.qkv.weight, layer.attention_norm.weight), self.matrix(own.out.weight)),
            cross,
            FeedForward(
                self.matrix(feed.wi.weight, layer.feed_forward_norm.weight), self.matrix(feed.wo.weight)
            ),
        )

    def _kept(self, laid: Tensor, fill: Callable[[], object]) -> Tensor:
        fill()
        self._fills.append(fill)
        return laid
