"""The engine: a model's encoder and one step of its decoders, on weights laid out for decoding.

Three things make it faster than calling the modules: matrices are cast once, not at every token, and take the
norms' weights in; whatever the rows of one prompt share is stored and computed once (encoder keys and values, the
start token, prefixes); and decoded tokens are columns of static caches that rows see through masks, so that no
cache is repeated for rows or reordered for beams.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from streamrec_dist.decode.columns import Columns
from streamrec_dist.decode.layout import DecoderStack, FeedForward, Layer, Layout
from streamrec_dist.model.backbone import Stack, StreamRec
from streamrec_dist.model.encoder import EncoderLayer
from streamrec_dist.model.guide import Guide
from streamrec_dist.model.layers import EPS, MASKED, relative_buckets
from streamrec_dist.tokens import PAD


@dataclass(frozen=True)
class Prompts:
    """Encoded histories, ready for one of the decoders."""

    bias: Tensor  # [P, 1, 1, S], 0 or MASKED
    keys: list[Tensor]  # per layer [P * heads, d_head, S]
    values: list[Tensor]  # per layer [P * heads, S, d_head]
    stack: Stack
    heads: int
    guide: Guide | None = None

    def __len__(self) -> int:
        return len(self.bias)

    def part(self, some: Tensor) -> Prompts:
        """The prompts `some` int64 [n]."""

        def chosen(x: Tensor) -> Tensor:
            return x.unflatten(0, (-1, self.heads))[some].flatten(0, 1)

        keys, values = [chosen(x) for x in self.keys], [chosen(x) for x in self.values]
        guide = self.guide.part(some) if self.guide else None
        return replace(self, bias=self.bias[some], keys=keys, values=values, guide=guide)


class Engine:
    """What decodes: made from a model once, and refreshed whenever the model has got other weights.

    Matrix products and attention are of `dtype`, float32 or bfloat16; the residual stream, norms and probabilities
    are float32 in either, as under autocast. Nothing here waits for the device: shapes follow from shapes.
    """

    def __init__(self, model: StreamRec, dtype: torch.dtype = torch.float32):
        self.model = model
        self.dtype = dtype
        first = model.encoder.layers[0]
        assert isinstance(first, EncoderLayer)
        self.heads = first.attention.heads
        self.inner = first.attention.out.weight.shape[1]
        self.d_head = self.inner // self.heads
        self.d_model = model.d_model
        self.levels, self.codes = model.levels, model.codes
        self.embed = model.embed.weight.detach()
        self.device = self.embed.device
        self._layout = Layout(dtype)
        self._table = self._layout.matrix(model.code_table, model.d_model**-0.5)
        self._encoder = self._layout.encoder(model.encoder)
        self._stacks: dict[Stack, DecoderStack] = {}

    def refresh(self) -> None:
        """Take the weights that have been written into the model's parameters since; all memory stays in place."""
        self._layout.refresh()

    def stack(self, name: Stack) -> DecoderStack:
        """A decoder's weights, laid out on first use."""
        if name not in self._stacks:
            self._stacks[name] = self._layout.decoder(self.model.stack(name))
        return self._stacks[name]

    def columns(self, stack: Stack, batch: int, capacity: int) -> Columns:
        """Empty columns for `batch` entries, with room for `capacity` tokens each."""
        shape = (2, batch, self.heads, capacity, self.d_head)
        layers = self.stack(stack).layers
        return Columns([torch.empty(shape, dtype=self.dtype, device=self.device) for _ in layers])

    # encoder

    @torch.no_grad()
    def encode(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """History tokens int64 [P, S], padded with 0 -> states float32 [P, S, d] and their mask bool [P, S]."""
        prompts, length = history.shape
        mask = history != PAD
        x = self.embed[history].view(-1, self.d_model)
        places = torch.arange(length, device=self.device)
        buckets = relative_buckets(places, places, bidirectional=True)
        relative = self._encoder.bias[buckets].permute(2, 0, 1)[None]
        bias = (relative + _padding_bias(mask)).to(self.dtype)
        for layer in self._encoder.layers:
            qkv = self._normed(x) @ layer.own.project
            q, k, v = self._split(qkv, prompts, length, 3)
            attended = self._attend(q, k.transpose(1, 2), v, bias, (prompts,))
            x = self._add(x, self._merge(attended, length), layer.own.out)
            x = self._feed_forward(x, layer.feed)
        states = self._normed(x, torch.float32) * self._encoder.norm
        return states.view(prompts, length, self.d_model), mask

    @torch.no_grad()
    def prompts(
        self, states: Tensor, mask: Tensor, stack: Stack = "thinking", guide: Guide | None = None
    ) -> Prompts:
        """Encoder states, with the keys and values of all of a decoder's layers from one matrix product.

        `guide` is `StreamRec.guide`'s, without which a model on the trie would give other probabilities than it
        was trained to.
        """
        assert guide is not None or not self.model.on_trie, "a model on the trie decodes with its guide"
        count, length, _ = states.shape
        weights = self.stack(stack)
        projected = states.reshape(-1, self.d_model).to(self.dtype) @ weights.keys_values
        parts = self._split(projected, count, length, 2 * len(weights.layers))
        keys = [part.transpose(1, 2).contiguous() for part in parts[0::2]]
        bias = _padding_bias(mask).to(self.dtype)
        return Prompts(bias, keys, parts[1::2], stack, self.heads, guide)

    def read(self, history: Tensor, stack: Stack = "thinking", guide: Guide | None = None) -> Prompts:
        """Encode history tokens int64 [P, S] for one of the decoders."""
        return self.prompts(*self.encode(history), stack, guide)

    # decoders

    @torch.no_grad()
    def step(self, tokens: Tensor, prompts: Prompts, columns: Columns, bias: Tensor) -> Tensor:
        """Decode tokens int64 [P, A, R] and append them to `columns`: states float32 [P, A, R, d].

        Each of the A groups of a prompt has columns of its own, P * A in all, which its R rows share. `bias`
        broadcasts to [P, heads, R, columns so far + R]: the relative bias where a row sees a column, MASKED where it
        does not.
        """
        count, groups, rows = tokens.shape
        stack = self.stack(prompts.stack)
        x = self.embed[tokens].view(-1, self.d_model)
        bias = bias.to(self.dtype).unsqueeze(1)
        for index, layer in enumerate(stack.layers):
            qkv = (self._normed(x) @ layer.own.project).view(count * groups, rows, 3, self.heads, self.d_head)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            keys, values = columns.append(index, k, v)
            attended = self._attend(_flat(q), keys.transpose(1, 2), values, bias, (count, groups))
            x = self._add(x, self._merge(attended, rows), layer.own.out)
            x = self._cross(x, layer, prompts, index)
            x = self._feed_forward(x, layer.feed)
        columns.used += rows
        return (self._normed(x, torch.float32) * stack.norm).view(count, groups, rows, self.d_model)

    def _cross(self, x: Tensor, layer: Layer, prompts: Prompts, index: int) -> Tensor:
        assert layer.cross is not None
        count = len(prompts)
        rows = len(x) // max(count, 1)
        q = (self._normed(x) @ layer.cross.project).view(count, rows, self.heads, self.d_head)
        keys, values = prompts.keys[index], prompts.values[index]
        attended = self._attend(_flat(q.transpose(1, 2)), keys, values, prompts.bias, (count,))
        return self._add(x, self._merge(attended, rows), layer.cross.out)

    # arithmetic

    def _normed(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Rows of x [n, d] at unit root mean square. One pass for the norm, one for the product."""
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = inverse.square_().div_(self.d_model).add_(EPS).rsqrt_()
        out = torch.empty_like(x, dtype=dtype or self.dtype)
        return torch.mul(x, inverse, out=out)

    def _add(self, x: Tensor, y: Tensor, matrix: Tensor) -> Tensor:
        """x + y @ matrix, in place."""
        return x.addmm_(y, matrix) if self.dtype == torch.float32 else x.add_(y @ matrix)

    def _feed_forward(self, x: Tensor, feed: FeedForward) -> Tensor:
        return self._add(x, (self._normed(x) @ feed.up).relu_(), feed.down)

    def _split(self, x: Tensor, count: int, length: int, parts: int) -> list[Tensor]:
        """[count * length, parts * inner] -> `parts` tensors [count * heads, length, d_head]."""
        split = x.view(count, length, parts, self.heads, self.d_head).permute(2, 0, 3, 1, 4)
        return [_flat(part) for part in split]

    def _merge(self, x: Tensor, rows: int) -> Tensor:
        """[B * heads, rows, d_head] -> [B * rows, inner]."""
        apart = x.view(len(x) // self.heads, self.heads, rows, self.d_head)
        return apart.transpose(1, 2).reshape(-1, self.inner)

    def _attend(
        self, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor, batch: tuple[int, ...]
    ) -> Tensor:
        """softmax(q keys + bias) values; q [B * heads, R, d_head], keys [.., d_head, C], values [.., C, d_head].

        `bias` broadcasts to [*batch, heads, R, C], where `batch` multiplies to B.
        """
        scores = torch.bmm(q, keys)
        scores.view(*batch, self.heads, *scores.shape[1:]).add_(bias)
        return torch.bmm(torch.softmax(scores, dim=-1), values)

    def logits(self, states: Tensor) -> Tensor:
        """States [..., d] -> logits float32 [..., levels * codes] of the code tokens."""
        return (states.to(self.dtype) @ self._table).float()

    def log_probs(self, states: Tensor) -> Tensor:
        """Eq. 11: log-probabilities float32 [..., levels * codes] of the code tokens."""
        return torch.log_softmax(self.logits(states), dim=-1)


def _flat(x: Tensor) -> Tensor:
    """[P, heads, R, d_head] -> [P * heads, R, d_head], contiguous."""
    return x.contiguous().flatten(0, 1)


def _padding_bias(mask: Tensor) -> Tensor:
    return torch.where(mask, 0.0, MASKED)[:, None, None, :]
