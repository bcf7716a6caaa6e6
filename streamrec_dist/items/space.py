"""The space in which items are quantised: text embeddings, reduced if asked for, beside vectors of behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from streamrec_dist.errors import ConfigError, DataError

#: The largest items.behaviour.dim there can be.
MOST_BEHAVIOUR = 1024
#: Known items whose behaviour stands for a new item's: as many as make a mean that is not one item's.
_GUESS_NEIGHBOURS = 10
#: Cosines computed at a time.
_BLOCK_ENTRIES = 2**25


@dataclass(frozen=True, eq=False)
class ItemSpace:
    """A linear map of text embeddings, fitted on a catalogue, and the room it leaves for behaviour.

    Reduced texts are (x - mean) @ axes, or x itself where there is no reduction. In the joined space texts are
    centred and have unit mean squared norm, behaviour has `weight`^2: at weight 1 both have the same say in a
    squared distance.
    """

    mean: np.ndarray  # float32 [d]     mean of the text embeddings
    axes: np.ndarray  # float32 [d, k]  principal axes; [d, 0]: no reduction
    scale: float  # root mean squared norm of the centred, reduced texts
    weight: float
    behaviour_dim: int  # 0 where behaviour has no weight

    @classmethod
    def fit(
        cls, embeddings: np.ndarray, pca: int | None, whiten: bool, weight: float, behaviour_dim: int
    ) -> ItemSpace:
        """Fit to the text embeddings [n, d] of a catalogue. Raises ConfigError for more axes than dimensions."""
        mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        axes = (
            _principal_axes(embeddings - mean, pca, whiten) if pca else np.zeros((len(mean), 0), np.float32)
        )
        reduced = (embeddings - mean) @ axes if pca else embeddings - mean
        scale = float(np.sqrt((reduced.astype(np.float64) ** 2).sum(axis=1).mean()))
        return cls(mean, axes, max(scale, 1e-12), weight, behaviour_dim if weight > 0 else 0)

    def texts(self, embeddings: np.ndarray) -> np.ndarray:
        """Text embeddings [n, d] -> what neighbours are looked for among: float32 [n, k or d]."""
        return (embeddings - self.mean) @ self.axes if self.axes.shape[1] else embeddings

    def join(self, embeddings: np.ndarray, behaviour: np.ndarray | None = None) -> np.ndarray:
        """Vectors to quantise, float32 [n, k or d + behaviour_dim].

        `behaviour` float32 [n, behaviour_dim] is laid beside the texts as it is, from `place_behaviour` or
        `guess_behaviour`; without it all items stand in the middle of that part.
        """
        centred = embeddings - self.mean
        reduced = centred @ self.axes if self.axes.shape[1] else centred
        parts = [reduced / self.scale]
        if self.behaviour_dim:
            room = np.zeros((len(embeddings), self.behaviour_dim), np.float32)
            parts.append(room if behaviour is None else behaviour)
        return np.concatenate(parts, axis=1).astype(np.float32)

    def place_behaviour(self, behaviour: np.ndarray) -> np.ndarray:
        """Vectors of behaviour float32 [n, behaviour_dim] as parts of the joined space: centred, `weight` long on
        average. An item without behaviour (the zero vector) stands in the middle."""
        return (self.weight * _centred_known(behaviour)).astype(np.float32)

    def guess_behaviour(self, embeddings: np.ndarray, texts: np.ndarray, joined: np.ndarray) -> np.ndarray:
        """The part that new items with text `embeddings` [n, d] get: float32 [n, behaviour_dim].

        It is the mean part of the known items with the nearest texts, brought to the usual length: the codebooks
        never saw vectors in the middle, where all new items would get the same codes. `texts` [N, k or d] and
        `joined` [N, ...] are those of the known items.
        """
        parts = joined[:, -self.behaviour_dim :]
        known = np.linalg.norm(parts, axis=1) > 0
        if not known.any():
            return np.zeros((len(embeddings), self.behaviour_dim), np.float32)
        parts, texts = parts[known], _unit(texts[known])
        nearest = _unit(self.texts(embeddings))
        guesses = np.empty((len(embeddings), self.behaviour_dim), np.float32)
        block = max(1, _BLOCK_ENTRIES // len(texts))
        for first in range(0, len(nearest), block):
            cosines = nearest[first : first + block] @ texts.T
            count = min(_GUESS_NEIGHBOURS, len(texts))
            chosen = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
            guesses[first : first + block] = parts[chosen].mean(axis=1)
        return self.weight * _unit(guesses)

    def arrays(self) -> dict[str, np.ndarray]:
        """What `restore` needs, as arrays."""
        numbers = np.array([self.scale, self.weight, self.behaviour_dim], dtype=np.float64)
        return {"space.mean": self.mean, "space.axes": self.axes, "space.numbers": numbers}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> ItemSpace:
        """Raises DataError for arrays that `arrays` does not give."""
        names = ("space.mean", "space.axes", "space.numbers")
        mean, axes, numbers = (arrays.get(name, np.zeros(0)) for name in names)
        fit = (
            mean.ndim == 1
            and len(mean)
            and axes.ndim == 2
            and len(axes) == len(mean)
            and numbers.shape == (3,)
        )
        if not fit or numbers[0] <= 0 or numbers[1] < 0 or not 0 <= numbers[2] <= MOST_BEHAVIOUR:
            raise DataError(
                f"the saved tokenizer has no {', '.join(names)} that fit one another; tokenize again"
            )
        return cls(mean, axes, float(numbers[0]), float(numbers[1]), int(numbers[2]))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows at length 1; a zero row stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _centred_known(behaviour: np.ndarray) -> np.ndarray:
    """Behaviour with the known items' mean removed and unit mean squared norm; unknown items stay at zero."""
    known = np.linalg.norm(behaviour, axis=1) > 0
    if not known.any():
        return behaviour
    moved = np.where(known[:, None], behaviour - behaviour[known].mean(axis=0), 0.0)
    size = np.sqrt((moved[known] ** 2).sum(axis=1).mean())
    return moved / max(float(size), 1e-12)


def _principal_axes(centred: np.ndarray, count: int, whiten: bool) -> np.ndarray:
    """The `count` leading axes float32 [d, count] of `centred` [n, d], with a fixed sign.

    `whiten` scales each to unit variance; an axis without variance is left at zero.
    """
    if count > centred.shape[1]:
        raise ConfigError(
            f"items.pca: {count} components asked for, the embeddings have {centred.shape[1]} dimensions"
        )
    exact = centred.astype(np.float64)
    variance, axes = np.linalg.eigh(exact.T @ exact / max(len(exact), 1))
    variance, axes = variance[::-1][:count], axes[:, ::-1][:, :count]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(count)])
    if whiten:
        spread = np.sqrt(np.maximum(variance, 0.0))
        axes = np.divide(axes, spread, out=np.zeros_like(axes), where=spread > 1e-6 * spread.max(initial=0.0))
    return axes.astype(np.float32)
