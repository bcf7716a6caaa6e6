"""Item vectors from behaviour: what users take one after the other, which item texts do not tell."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from streamrec_dist.data.cooccurrence import pair_weights

#: Up to this many items the whole spectrum is cheaper than an iterative solver, and exact.
_DENSE_ITEMS = 512


def behaviour_vectors(
    items: np.ndarray, offsets: np.ndarray, n_items: int, dim: int, seed: int = 0
) -> np.ndarray:
    """Unit vectors of items, float32 [n_items, dim], from the training part of the sequences only.

    The positive pointwise mutual information of items at distance <= 5 (weights 1 / distance, both directions),
    factorised by a truncated SVD, as U sqrt(S): what skip-gram training of item vectors converges to. An item
    without company has the zero vector; with fewer than `dim` directions the rest are zero.

    items int [interactions], offsets int64 [users + 1], as `split.training_part` gives them.
    """
    information = _positive_information(pair_weights(items, offsets, n_items, backward=1.0))
    factors = _factors(information, min(dim, n_items - 1), seed)
    vectors = np.zeros((n_items, dim), dtype=np.float32)
    vectors[:, : factors.shape[1]] = factors
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A norm of rounding errors is no evidence.
    return np.where(norms > 1e-5, vectors / np.maximum(norms, 1e-5), 0.0).astype(np.float32)


def _positive_information(pairs: sparse.csr_array) -> sparse.csr_array:
    """max(0, log(p(i, j) / (p(i) p(j)))) of symmetric pair weights, as a sparse array."""
    together = pairs.tocoo()
    alone = np.asarray(pairs.sum(axis=1)).ravel()
    expected = alone[together.row] * alone[together.col]
    value = np.log(together.data * together.data.sum() / expected)
    keep = value > 0
    return sparse.csr_array((value[keep], (together.row[keep], together.col[keep])), shape=pairs.shape)


def _factors(information: sparse.csr_array, dim: int, seed: int) -> np.ndarray:
    """U sqrt(S) of the `dim` largest singular values: float64 [n, dim]; columns with a fixed sign."""
    if dim < 1 or information.nnz == 0:
        return np.zeros((information.shape[0], 0))
    if information.shape[0] <= _DENSE_ITEMS:
        u, s, _ = np.linalg.svd(information.toarray())
        u, s = u[:, :dim], s[:dim]
    else:
        start = np.random.default_rng(seed).standard_normal(information.shape[0])
        u, s, _ = svds(information, k=dim, v0=start)
        u, s = u[:, ::-1], s[::-1]
    # A singular vector's sign is the solver's whim.
    largest = np.abs(u).argmax(axis=0)
    return u * np.sign(u[largest, np.arange(len(s))]) * np.sqrt(s)
