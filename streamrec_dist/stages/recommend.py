"""Recommendations for single histories, with the thoughts that led to them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from streamrec_dist.baselines.item_model import ItemModel
from streamrec_dist.data.batches import targets
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.evidence import no_evidence
from streamrec_dist.data.strings import Strings
from streamrec_dist.errors import UsageError
from streamrec_dist.stages.decoding import Recommender, decoding_of
from streamrec_dist.stages.item_ranking import likeliest
from streamrec_dist.tokens import FIRST_CODE

#: Items named for each thought.
NEAREST = 3


def user_history(dataset: Dataset, user: str) -> np.ndarray:
    """All items of a user, by the user's original id: int64 [n]. Raises UsageError for an unknown one."""
    number = Strings.of(dataset.user_ids).index_of(user)
    if number is None:
        raise UsageError(f"no user {user!r} in {dataset.name}{_close(user, dataset.user_ids)}")
    return dataset.history(number).astype(np.int64)


def given_history(dataset: Dataset, items: Sequence[str]) -> np.ndarray:
    """Items by their original ids, oldest first: int64 [n]. Raises UsageError naming the first unknown one."""
    if not items:
        raise UsageError("the history is empty: give at least one item id")
    known, numbers = Strings.of(dataset.item_ids), []
    for item in items:
        number = known.index_of(item)
        if number is None:
            raise UsageError(f"no item {item!r} in {dataset.name}{_close(item, known)}")
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


def recommend(
    recommender: Recommender, retriever: ItemModel | None, dataset: Dataset, history: np.ndarray, k: int
) -> dict[str, Any]:
    """The best k items after `history` (int64 [n], oldest first), none of which is in it.

    `retriever` finds the evidence for a recommender that is given any.
    `thoughts` are those that lead to the first of them.
    """
    if k < 1:
        raise UsageError(f"-k {k}: expected at least 1")
    corpus = recommender.materials.corpus
    seen = history[-corpus.max_history :]
    prompt = _prompt(recommender, retriever, history)
    known = np.unique(history)
    # The beam's last step drops what the user has; it must be wide enough to be left with k.
    beam = max(k + len(known), recommender.config.stages.evaluate.beam)
    banned = torch.from_numpy(known)[None].to(recommender.device)
    # Equal histories are answered alike: their samples have one key.
    found = recommender.rank_prompts(prompt, np.zeros(1, dtype=np.int64), beam, banned)
    pairs = zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True)
    ranked = [(item, score) for item, score in pairs if item >= 0]
    return {
        "history": [_named(dataset, int(item)) for item in seen],
        "items": _listed(dataset, ranked[:k]),
        "decoding": decoding_of(recommender.plan, beam),
        "thoughts": _explain(recommender, dataset, found.thoughts[0]),
    }


def explain_rows(
    recommender: Recommender, dataset: Dataset, rows: np.ndarray, count: int, k: int
) -> dict[str, Any]:
    """What is recommended for some of the held-out targets rows int64 [n, 2] (user, position), as they are evaluated.

    `count` of them at most: the first half of those whose target is among the best k, as far as there are so many,
    and others. `hits` says of how many of the n it is. Each of `shown` has `user`, `history`, `target`, its `rank` in
    the beam (None where it is not there), `items`, the best k, and `thoughts`, which lead to the first of them.
    """
    beam = max(k, recommender.config.stages.evaluate.beam)
    found = recommender.rank(rows, beam, mask_history=False)
    wanted = targets(recommender.materials.corpus, rows)
    hit = (found.items[:, :k] == wanted[:, None]).any(axis=1)
    hits, misses = np.flatnonzero(hit), np.flatnonzero(~hit)
    half = max(count - count // 2, count - len(misses))
    places = [*hits[:half], *misses[: count - min(half, len(hits))]]
    thoughts = _explain(recommender, dataset, found.thoughts[places].ravel())
    steps = found.thoughts.shape[1]
    shown = []
    for number, place in enumerate(places):
        (user, position), target = rows[place].tolist(), int(wanted[place])
        items = found.items[place].tolist()
        ranked = [pair for pair in zip(items, found.scores[place].tolist(), strict=True) if pair[0] >= 0]
        seen = dataset.history(user)[max(0, position - recommender.materials.corpus.max_history) : position]
        shown.append(
            {
                "user": str(dataset.user_ids[user]),
                "history": [_named(dataset, int(item)) for item in seen],
                "target": _named(dataset, target),
                "rank": items.index(target) + 1 if target in items else None,
                "items": _listed(dataset, ranked[:k]),
                "thoughts": thoughts[number * steps : (number + 1) * steps],
            }
        )
    decoding = decoding_of(recommender.plan, beam)
    return {"drawn": len(rows), "hits": len(hits), "decoding": decoding, "shown": shown}


def _listed(dataset: Dataset, ranked: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
    """Items and their scores, best first."""
    return [
        {"rank": rank, **_named(dataset, item), "score": score}
        for rank, (item, score) in enumerate(ranked, start=1)
    ]


def _prompt(recommender: Recommender, retriever: ItemModel | None, history: np.ndarray) -> list[np.ndarray]:
    """One history as `Materials.prompts` has those of rows."""
    materials = recommender.materials
    tokens = materials.corpus.item_tokens(history[-materials.corpus.max_history :]).reshape(1, -1)
    found = no_evidence(1)
    if retriever is not None:
        found = likeliest(retriever, materials, materials.item_prompt_of(history))
    return [tokens, *materials.laid_out(*found)]


def _explain(recommender: Recommender, dataset: Dataset, tokens: np.ndarray) -> list[dict[str, Any]]:
    """Thoughts int64 [n] as level and code, with the items whose representation is nearest to their embedding."""
    corpus, model = recommender.materials.corpus, recommender.model
    with torch.no_grad():
        every = corpus.item_tokens(np.arange(dataset.n_items))
        states = torch.nn.functional.normalize(
            model.item_states(torch.from_numpy(every).to(recommender.device)), dim=-1
        )
        thoughts = torch.nn.functional.normalize(
            model.embed.weight[torch.from_numpy(tokens).to(recommender.device)], dim=-1
        )
        nearest = [
            (states @ thought).topk(min(NEAREST, dataset.n_items)).indices.tolist() for thought in thoughts
        ]
    return [
        {
            "token": "level {}, code {}".format(*_level_and_code(token, corpus.codes_per_level)),
            "nearest": [_named(dataset, item)["title"] for item in items],
        }
        for token, items in zip(tokens.tolist(), nearest, strict=True)
    ]


def _level_and_code(token: int, codes: int) -> tuple[int, int]:
    """Counted from 1, and from 0."""
    level, code = divmod(token - FIRST_CODE, codes)
    return level + 1, code


def _named(dataset: Dataset, item: int) -> dict[str, str]:
    identity = str(dataset.item_ids[item])
    return {"item": identity, "title": dataset.titles[item] or identity}


def _close(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(known[:20000]), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; ids look like {known[0]!r}"
