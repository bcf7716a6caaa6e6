"""Stage 2: supervised fine-tuning on annotated thoughts, with DPO, quantisation and state losses (eq. 14-19)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamrec_dist.config import SftConfig
from streamrec_dist.data.batches import targets
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.materials import Materials
from streamrec_dist.model.backbone import StreamRec, thought_log_probs, token_log_probs
from streamrec_dist.model.thinking import unit_rms
from streamrec_dist.tokens import BOS, FIRST_CODE
from streamrec_dist.training.history_dropout import HistoryDropout
from streamrec_dist.transfer import to_device
from streamrec_dist.types import Annotation

COMMITMENT = 0.25  # beta of eq. 6 and 15
TINY = 1e-6  # weight of nothing


@dataclass(frozen=True)
class Shares:
    """What part of a rank's optimizer step a batch is, by what each loss is a mean over."""

    rows: float = 1.0
    learnt: float = 1.0  # tokens that are learnt
    annotated: float = 1.0  # rows with annotated thoughts
    items: float = 1.0  # items that are learnt

    @classmethod
    def of(
        cls, part: np.ndarray, whole: np.ndarray, steps: int, levels: int, annotated_items: float
    ) -> Shares:
        """Of the rows `own` bool [b] among `own` bool [B], which have `steps` thoughts and `levels` codes."""
        annotated, among = (~part).sum(), (~whole).sum()
        items, all_items = (own.sum() + annotated_items * (~own).sum() for own in (part, whole))
        learnt = (annotated * steps + items * levels) / max(among * steps + all_items * levels, TINY)
        return cls(
            len(part) / len(whole),
            float(learnt),
            float(annotated / max(among, 1)),
            float(items / max(all_items, TINY)),
        )


@dataclass(frozen=True)
class SftBatch:
    """Annotated training rows as tokens."""

    shares: Shares
    history: Tensor  # int64 [B, S]
    places: Tensor  # int64 [B, K]  the evidence (model/evidence.py)
    below: Tensor  # float64 [B, K + 1]
    thoughts: Tensor  # int64 [B, l]
    own: Tensor  # bool [B]  the model's own thoughts: given, not learnt
    target: Tensor  # int64 [B, m]
    target_item: Tensor  # int64 [B]
    negative: Tensor  # int64 [B, m]  dispreferred item
    reference_target: Tensor  # float32 [B]  log pi_ref(target | history)
    reference_negative: Tensor  # float32 [B]
    all_items: Tensor  # int64 [N]  targets of the optimizer step on all ranks, the negatives of eq. 14


def sft_batch(
    materials: Materials,
    annotation: Annotation,
    chosen: np.ndarray,
    device: torch.device,
    rank: np.ndarray | None = None,
    step: np.ndarray | None = None,
) -> SftBatch:
    """Training rows `chosen` int64 [B], with the annotation of these and others -> a batch.

    They are a part of the rows `rank` int64 of this rank, which are a part of those of the `step` on all ranks; where
    left out, they are all.
    """
    corpus = materials.corpus
    rows = materials.rows[chosen]
    items = targets(corpus, rows)
    rank = chosen if rank is None else rank
    own, place = annotation.own, chosen - annotation.first
    weight = materials.config.stages.sft.annotated_items
    steps = annotation.thoughts.shape[1]
    shares = Shares.of(own[place], own[rank - annotation.first], steps, corpus.levels, weight)
    arrays = (
        *materials.prompts(rows),
        annotation.thoughts[place].astype(np.int64),
        own[place],
        corpus.item_tokens(items),
        items,
        corpus.item_tokens(annotation.negatives[place]),
        annotation.reference_target[place],
        annotation.reference_negative[place],
        targets(corpus, materials.rows[rank if step is None else step]),
    )
    return SftBatch(shares, *(to_device(array, device) for array in arrays))


class SftLoss(nn.Module):
    """L = L_SFT + lambda L_DPO + mu L_Quant + delta L_State (eq. 19).

    Loss and metrics are the batch's share of those of the optimizer step: what is accumulated adds up.
    """

    def __init__(self, model: StreamRec, config: SftConfig, corpus_codes: Tensor, catalogue: Catalogue):
        """`corpus_codes` int64 [n_items, m]: the tokens of all items, from which targets are represented."""
        super().__init__()
        self.model = model
        self.config = config
        self.catalogue = catalogue
        self.history_dropout = HistoryDropout(config.history_dropout, model.levels)
        self.item_tokens: Tensor
        self.register_buffer("item_tokens", corpus_codes, persistent=False)

    def forward(self, batch: SftBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 19, float32 []; the metrics are its terms before they are weighed, float32 [] each.

        `nll` is in nats a token that is learnt, `dpo` and `state` in nats a row, `quantisation` in squares a
        dimension, at unit rms.
        """
        model, config = self.model, self.config
        states, mask = model.encode(self.history_dropout(batch.history))
        memory = model.memory(states, mask)
        first = model.history_state(states, mask)
        target_state = model.item_states(batch.target).detach()

        start = torch.full_like(batch.thoughts[:, :1], BOS)
        inputs = torch.cat([start, batch.thoughts], dim=-1)[:, None]
        hidden, cache = model.decode(inputs, memory)
        thinking_states = model.heads.states(first, hidden[:, 0, 1:])
        residuals = model.heads.residuals(target_state, thinking_states[:, :-1])
        if config.ste == "two_pass":
            hidden, cache = self._straight_through(batch, memory, residuals)
            thinking_states = model.heads.states(first, hidden[:, 0, 1:])

        rows = len(batch.thoughts)
        items = torch.stack([batch.target, batch.negative], dim=1)
        both = torch.arange(rows, device=items.device).repeat_interleave(2)
        tail, _ = model.decode(items[..., :-1], memory, cache.select(both))
        item_hidden = torch.cat([hidden[:, :, -1:].expand(-1, 2, -1, -1), tail], dim=2)
        guide = model.guide(self.catalogue, batch.places, batch.below)
        item_log_probs = token_log_probs(model, item_hidden, items, guide=guide)
        thoughts = thought_log_probs(model, hidden[:, 0, :-1], batch.thoughts, guide=guide)

        weight = torch.where(batch.own, 1.0, config.annotated_items)
        nll = sft_nll(thoughts, item_log_probs[:, 0], batch.own, weight)
        dpo = dpo_loss(
            item_log_probs[:, 0].sum(-1) - batch.reference_target,
            item_log_probs[:, 1].sum(-1) - batch.reference_negative,
            config.dpo_beta,
            weight,
        )
        thought_states = F.embedding(batch.thoughts, model.embed.weight)
        quantisation = quantisation_loss(residuals, thought_states, batch.own)
        with torch.no_grad():
            all_states = model.item_states(self.item_tokens[batch.all_items])
        state = state_loss(
            thinking_states[:, 1:],
            target_state,
            batch.target_item,
            all_states,
            batch.all_items,
            config.state_temperature,
            config.state_similarity == "cosine",
        )
        shares = batch.shares
        nll, dpo = nll * shares.learnt, dpo * shares.items
        quantisation, state = quantisation * shares.annotated, state * shares.rows
        loss = nll + config.dpo * dpo + config.quantisation * quantisation + config.state * state
        return loss, {"nll": nll, "dpo": dpo, "quantisation": quantisation, "state": state}

    def _straight_through(self, batch: SftBatch, memory, residuals: Tensor):
        """A second pass whose thought inputs are the residuals, with the tokens' values (eq. 15, [2])."""
        model = self.model
        embedded = model.embed(batch.thoughts)
        # Nothing bounds the size of residuals, which are compared with tokens at unit rms: at the tokens' own, a
        # gradient through them turns them and cannot grow with them.
        scale = embedded.detach().pow(2).mean(dim=-1, keepdim=True).sqrt()
        turned = unit_rms(residuals) * scale
        thoughts = turned + (embedded - turned).detach()
        # The model's own thoughts did not come from residuals.
        thoughts = torch.where(batch.own[:, None, None], embedded, thoughts)
        start = model.embed.weight[BOS].expand(len(thoughts), 1, -1)
        return model.decoder(torch.cat([start, thoughts], dim=1)[:, None], memory)


def sft_nll(thoughts: Tensor, item: Tensor, own: Tensor, items: Tensor) -> Tensor:
    """Mean negative log-likelihood a token: log-probs [B, l] and [B, m]; own thoughts are not learnt.

    `items` float [B] weighs the item of each row.
    """
    learnt = (~own).float().unsqueeze(-1).expand_as(thoughts)
    weight = items.unsqueeze(-1).expand_as(item)
    total = learnt.sum() + weight.sum()
    return -((thoughts * learnt).sum() + (item * weight).sum()) / total.clamp(min=TINY)


def dpo_loss(preferred: Tensor, dispreferred: Tensor, beta: float, weight: Tensor) -> Tensor:
    """Eq. 18 on the log-ratios of eq. 16 and 17, float [B] each: the mean by `weight` [B]."""
    each = -F.logsigmoid(beta * (preferred - dispreferred))
    return (each * weight).sum() / weight.sum().clamp(min=TINY)


def quantisation_loss(residuals: Tensor, tokens: Tensor, own: Tensor) -> Tensor:
    """Eq. 15 at unit rms: |sg[r] - o|^2 + beta |r - sg[o]|^2, mean over annotated rows, steps and dimensions.

    residuals r and token embeddings o, [B, l, d]; the paper's leading minus would push them apart.
    """
    r, o = unit_rms(residuals), unit_rms(tokens)
    each = ((r.detach() - o) ** 2 + COMMITMENT * (r - o.detach()) ** 2).mean(dim=(1, 2))
    weight = (~own).float()
    return (each * weight).sum() / weight.sum().clamp(min=1)


def state_loss(
    states: Tensor,
    targets: Tensor,
    items: Tensor,
    all_targets: Tensor,
    all_items: Tensor,
    temperature: float,
    cosine: bool,
) -> Tensor:
    """Eq. 14: contrast each state with its target among the batch's, weights w_j = 2j / (l(l+1)).

    states s_1..s_l [B, l, d]; targets [B, d] of items int64 [B]; all_targets [N, d] of items int64 [N] are the
    negatives of all ranks, from which a row's own item is masked. Similarity is the cosine over `temperature`,
    or the raw dot product.
    """
    if cosine:
        states, targets, all_targets = (F.normalize(x, dim=-1) for x in (states, targets, all_targets))
    scale = 1.0 / temperature if cosine else 1.0
    positive = (states * targets.unsqueeze(1)).sum(-1) * scale
    negative = torch.einsum("bld,nd->bln", states, all_targets) * scale
    same = items.unsqueeze(-1) == all_items
    negative = negative.masked_fill(same.unsqueeze(1), -torch.inf)
    each = torch.logaddexp(positive, negative.logsumexp(dim=-1)) - positive
    steps = states.shape[1]
    weights = 2.0 * torch.arange(1, steps + 1, device=states.device) / (steps * (steps + 1))
    return (each.mean(dim=0) * weights).sum()


def all_item_tokens(materials: Materials) -> Tensor:
    """Tokens of every item int64 [n_items, m]."""
    return (
        materials.catalogue.codes
        + FIRST_CODE
        + torch.arange(materials.corpus.levels) * (materials.corpus.codes_per_level)
    )
