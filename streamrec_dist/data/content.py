"""Content hashes of a dataset: functions of what is in it, whatever the layout and the chunks on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from streamrec_dist.data.strings import Strings


def array_hash(*arrays: np.ndarray) -> str:
    """SHA-256 over the lengths and the little-endian content of integer arrays, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def strings_hash(*columns: Sequence[str]) -> str:
    """SHA-256 over columns of strings. Lengths and bytes are hashed apart, so chunk borders leave no trace."""
    digest = hashlib.sha256()
    for column in columns:
        lengths, content = hashlib.sha256(), hashlib.sha256()
        for part_lengths, part in Strings.of(column).buffers():
            # The lengths keep ("ab", "c") apart from ("a", "bc").
            lengths.update(part_lengths.astype("<i8", copy=False).data)
            content.update(part)
        digest.update(lengths.digest() + content.digest())
    return digest.hexdigest()


def combined_hash(hashes: Mapping[str, str]) -> str:
    """One SHA-256 over the hashes of the parts."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
