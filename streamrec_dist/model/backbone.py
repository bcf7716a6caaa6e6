"""The recommender: one tied token table, encoder, thinking decoder, direct decoder, thinking heads."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from streamrec_dist.config import Config
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.decoder import Decoder, DecoderCache, Memory
from streamrec_dist.model.encoder import Encoder, memory_bias
from streamrec_dist.model.evidence import Evidence
from streamrec_dist.model.guide import Guide
from streamrec_dist.model.layers import RelativeBias
from streamrec_dist.model.thinking import ThinkingHeads
from streamrec_dist.tokens import BOS, FIRST_CODE, PAD

Stack = Literal["thinking", "direct"]


class StreamRec(nn.Module):
    """Tokens: 0 pad, 1 bos, then `levels * codes` level-offset code tokens, tied between input and output.

    The thinking decoder sees `bos o_1..o_l c_1..c_m`; the direct decoder, a second stack on the same encoder,
    sees `bos c_1..c_m` (section 2.3.2). pad and bos are never predicted: every distribution of this model
    is over code tokens, the vocabulary of eq. 11, or for an item over those that its guide leaves (model/guide.py).
    """

    def __init__(self, config: Config):
        super().__init__()
        self.levels, self.codes = config.items.levels, config.items.codes
        self.d_model = config.model.d_model
        self.on_trie = config.model.softmax == "trie"
        self.vocabulary = FIRST_CODE + self.levels * self.codes
        self.embed = nn.Embedding(self.vocabulary, self.d_model)
        self.encoder = Encoder(config.model)
        informed = self.levels if config.model.evidence else 0
        self.decoder = Decoder(config.model, informed)
        self.direct = Decoder(config.model, informed if config.model.direct_evidence else 0)
        self.heads = ThinkingHeads(self.d_model)
        for module in self.modules():
            if isinstance(module, RelativeBias):
                nn.init.normal_(module.weight, std=self.d_model**-0.5)

    def stack(self, name: Stack) -> Decoder:
        return self.decoder if name == "thinking" else self.direct

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """History tokens int64 [P, S], padded with 0 -> states [P, S, d] and their mask bool [P, S]."""
        mask = tokens != PAD
        return self.encoder(self.embed(tokens), mask), mask

    def memory(self, states: Tensor, mask: Tensor, stack: Stack = "thinking") -> Memory:
        """Encoder output, ready for one of the decoders."""
        return self.stack(stack).memory(states, mask, memory_bias(mask))

    def read(self, tokens: Tensor, stack: Stack = "thinking") -> Memory:
        """Encode history tokens int64 [P, S] for one of the decoders."""
        return self.memory(*self.encode(tokens), stack)

    def decode(
        self, tokens: Tensor, memory: Memory, cache: DecoderCache | None = None, stack: Stack = "thinking"
    ) -> tuple[Tensor, DecoderCache]:
        """Decoder tokens int64 [P, R, T], R sequences a prompt, after those in `cache` -> states [P, R, T, d]."""
        return self.stack(stack)(self.embed(tokens), memory, cache)

    def guide(
        self, catalogue: Catalogue, places: Tensor, below: Tensor, stack: Stack = "thinking"
    ) -> Guide | None:
        """What guides one of the decoders after P prompts with the evidence `places` and `below`.

        None where that is none, and an item's codes compete with all code tokens.
        """
        weight = self.stack(stack).evidence
        if weight is not None:
            return Evidence(catalogue, self.on_trie, places, below, weight)
        return Guide(catalogue, on_trie=True) if self.on_trie else None

    def logits(self, hidden: Tensor) -> Tensor:
        """States [..., d] -> logits [..., levels * codes] of the code tokens (token = index + FIRST_CODE)."""
        return torch.matmul(hidden * self.d_model**-0.5, self.code_table.T)

    @property
    def code_table(self) -> Tensor:
        """Embeddings of the code tokens [levels * codes, d]."""
        return self.embed.weight[FIRST_CODE:]

    def item_states(self, item_tokens: Tensor) -> Tensor:
        """t of section 2.3.1: mean of the m token embeddings; int64 [..., m] -> [..., d]."""
        return self.embed(item_tokens).mean(dim=-2)

    @staticmethod
    def history_state(states: Tensor, mask: Tensor) -> Tensor:
        """d_0 of section 2.3.1: mean of the encoder states over the tokens there are; [P, S, d] -> [P, d]."""
        weights = mask.float().unsqueeze(-1)
        return (states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def token_log_probs(
    model: StreamRec,
    hidden: Tensor,
    tokens: Tensor,
    temperature: float = 1.0,
    guide: Guide | None = None,
) -> Tensor:
    """Log-probabilities [P, ..., T] that `hidden` [P, ..., T, d] gives to the tokens int64 [P, ..., T].

    The last m of them are an item's, those before are thoughts; the P prompts may have a guide.
    """
    assert guide is not None or not model.on_trie, "a model on the trie is trained with its guide"
    if guide is None:
        return log_probs_of(model.logits(hidden), tokens, temperature)
    before = tokens.shape[-1] - model.levels
    thoughts = thought_log_probs(model, hidden[..., :before, :], tokens[..., :before], temperature, guide)
    item = guide.along(model.logits(hidden[..., before:, :]).float(), tokens[..., before:])
    return torch.cat([thoughts, log_probs_of(item, tokens[..., before:], temperature)], dim=-1)


def thought_log_probs(
    model: StreamRec,
    hidden: Tensor,
    tokens: Tensor,
    temperature: float = 1.0,
    guide: Guide | None = None,
) -> Tensor:
    """The same of thoughts alone, which no item follows."""
    logits = model.logits(hidden).float()
    if guide is not None:
        logits = guide.add_to_thoughts(logits)
    return log_probs_of(logits, tokens, temperature)


def log_probs_of(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities float32 [...] of `tokens` int64 [...] under logits [..., levels * codes]."""
    log_probs = torch.log_softmax(logits.float() / temperature, dim=-1)
    return log_probs.gather(-1, (tokens - FIRST_CODE).unsqueeze(-1)).squeeze(-1)


def shift_right(tokens: Tensor) -> Tensor:
    """Decoder inputs: bos, then all but the last token; int64 [..., T] -> [..., T]."""
    return torch.cat([torch.full_like(tokens[..., :1], BOS), tokens[..., :-1]], dim=-1)
