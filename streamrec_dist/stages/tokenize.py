"""The tokenize stage: text embeddings and sequences to text neighbours and semantic ids.

    texts -> embeddings (eq. 4) -> reduced -> neighbours by cosine
                                      |
    sequences -> behaviour vectors -> joined -> tokenizer (eq. 5-8) -> codes -> unique semantic ids -> report

Texts alone do not say which of two near-identical items people take together; vectors of behaviour do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from streamrec_dist.config import Config
from streamrec_dist.errors import DataError
from streamrec_dist.items.collaborative import behaviour_vectors
from streamrec_dist.items.collisions import separate
from streamrec_dist.items.encoder import check_finite
from streamrec_dist.items.neighbours import EXACT_ITEMS, nearest_neighbours, neighbour_recall
from streamrec_dist.items.report import id_report, prefix_sharing
from streamrec_dist.items.residual_kmeans import fit_residual_kmeans
from streamrec_dist.items.rqvae import RQVAE, train_rqvae
from streamrec_dist.items.semantic_ids import assign_ids
from streamrec_dist.items.space import ItemSpace
from streamrec_dist.items.tokenizer import ItemTokenizer, TokenizerOptions

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """The items as vectors, ready to be quantised."""

    space: ItemSpace
    texts: np.ndarray  # float32 [n, k]  text embeddings, reduced
    behaviour: np.ndarray | None  # float32 [n, b]
    joined: np.ndarray  # float32 [n, k + b]


@dataclass(frozen=True, eq=False)
class Tokenized:
    """What the stage makes of n items.

    `neighbours` int32 [n, k], nearest first; `codes` int32 [n, m], unique rows; `tokenizer`: the arrays from which
    new items get ids; `report`: `id_report` with the variance lost, prefix sharing and seconds by part.
    """

    neighbours: np.ndarray
    codes: np.ndarray
    tokenizer: dict[str, np.ndarray]
    report: dict[str, Any]


def tokenizer_options(config: Config) -> TokenizerOptions:
    """The part of the configuration that decides how vectors become ids."""
    stage, items = config.stages.tokenize, config.items
    return TokenizerOptions(
        method=items.method,
        levels=items.levels,
        codes=items.codes,
        distance=items.distance,
        balance=items.balance,
        alignment=items.behaviour.alignment,
        latent=stage.latent,
        hidden=stage.hidden,
        epochs=stage.epochs,
        batch=stage.batch,
        lr=stage.lr,
        collisions=items.collisions,
        seed=config.seed,
    )


def tokenize(
    embeddings: np.ndarray,
    items: np.ndarray,
    offsets: np.ndarray,
    config: Config,
    emit: Progress,
    device: str = "cpu",
) -> Tokenized:
    """The whole stage in one process; see its three parts."""
    clock = Clock()
    vectors = item_vectors(embeddings, items, offsets, config)
    clock.lap("behaviour")
    model = fit_tokenizer(vectors, config, emit, device)
    clock.lap("tokenizer")
    return make_ids(vectors, model, config, clock)


def item_vectors(
    embeddings: np.ndarray, items: np.ndarray, offsets: np.ndarray, config: Config
) -> ItemVectors:
    """Text embeddings float32 [n, d] and the training part of the sequences (items int [interactions], offsets
    int64 [users + 1]) -> vectors. Raises DataError for no items or an embedding that is not finite."""
    if len(embeddings) == 0:
        raise DataError("the catalogue is empty: there is no item to tokenize")
    check_finite(embeddings, "text embedding")
    settings = config.items
    wanted = settings.behaviour.weight > 0 or settings.behaviour.alignment > 0
    behaviour = (
        behaviour_vectors(items, offsets, len(embeddings), settings.behaviour.dim, config.seed)
        if wanted
        else None
    )
    space = ItemSpace.fit(
        embeddings, settings.pca, settings.whiten, settings.behaviour.weight, settings.behaviour.dim
    )
    placed = space.place_behaviour(behaviour) if behaviour is not None and space.behaviour_dim else None
    return ItemVectors(space, space.texts(embeddings), behaviour, space.join(embeddings, placed))


def fit_tokenizer(vectors: ItemVectors, config: Config, emit: Progress, device: str = "cpu") -> ItemTokenizer:
    """The tokenizer, trained by all ranks of a process group when there is one.

    `emit` gets {"epoch", "epochs", "loss", "recon", "used_codes"} once an epoch of the RQ-VAE.
    """
    options = tokenizer_options(config)
    data = torch.tensor(vectors.joined, device=device)
    if options.method == "kmeans":
        return fit_residual_kmeans(data, options)
    return train_rqvae(data, options, emit, vectors.behaviour if options.alignment > 0 else None)


def make_ids(vectors: ItemVectors, model: ItemTokenizer, config: Config, clock: Clock) -> Tokenized:
    """Unique ids, text neighbours and the report. Raises RunError when no unique ids can be made."""
    options = tokenizer_options(config)
    data = torch.tensor(vectors.joined, device=model.shift.device)
    codes = assign_ids(model, data, options)
    clock.lap("ids")
    about = {"method": options.method, "collisions": options.collisions, "recon": model.lost_variance(data)}
    before = model.encode(data).cpu().numpy()
    return _with_neighbours(
        vectors, before, codes, tokenizer_arrays(vectors.space, model), about, config, clock
    )


def check_given_ids(given: np.ndarray, config: Config) -> None:
    """Raise DataError when `given` int [n, m] are not ids with items.levels and items.codes."""
    levels, codes = given.shape[1], int(given.max(initial=0)) + 1
    if levels != config.items.levels or codes > config.items.codes:
        raise DataError(
            f"{config.items.ids}: ids of {levels} levels of {codes} codes; expected items.levels: "
            f"{config.items.levels}, items.codes: {config.items.codes}"
        )


def take_ids(vectors: ItemVectors, given: np.ndarray, config: Config, clock: Clock) -> Tokenized:
    """Ids made elsewhere, `given` int [n, m], told apart where they collide. Raises as `check_given_ids`."""
    check_given_ids(given, config)
    codes = separate(given, config.items.codes, np.random.default_rng(config.seed))
    clock.lap("ids")
    about = {"method": "given", "collisions": "separated"}
    return _with_neighbours(vectors, given, codes, {}, about, config, clock)


def _with_neighbours(
    vectors: ItemVectors,
    before: np.ndarray,
    codes: np.ndarray,
    tokenizer: dict[str, np.ndarray],
    about: dict[str, Any],
    config: Config,
    clock: Clock,
) -> Tokenized:
    nearest = nearest_neighbours(vectors.texts, config.items.neighbours)
    clock.lap("neighbours")
    recall = neighbour_recall(vectors.texts, nearest) if len(nearest) > EXACT_ITEMS else 1.0
    report = about | id_report(before, codes, config.items.codes)
    report |= {"prefixes": prefix_sharing(codes, nearest), "neighbour_recall": recall, "seconds": clock.laps}
    return Tokenized(nearest, codes, tokenizer, report)


def tokenizer_arrays(space: ItemSpace, model: ItemTokenizer) -> dict[str, np.ndarray]:
    """Everything that new items need, as arrays; `restore_tokenizer` reads them."""
    state = {f"model.{name}": value.cpu().numpy() for name, value in model.state_dict().items()}
    return state | space.arrays()


def restore_tokenizer(arrays: dict[str, np.ndarray], config: Config) -> tuple[ItemSpace, ItemTokenizer]:
    """Raises DataError when the arrays are not those of this configuration."""
    space, options = ItemSpace.restore(arrays), tokenizer_options(config)
    dim = (space.axes.shape[1] or len(space.mean)) + space.behaviour_dim
    model = RQVAE(dim, options) if options.method == "rqvae" else ItemTokenizer(dim, options)
    prefix = "model."
    state = {n.removeprefix(prefix): torch.tensor(a) for n, a in arrays.items() if n.startswith(prefix)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"the saved tokenizer is not of this configuration: {error}") from None
    return space, model.eval().requires_grad_(False)


class Clock:
    """Seconds spent between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now
