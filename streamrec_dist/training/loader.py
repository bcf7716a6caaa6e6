"""Batches made while a learner computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Made = TypeVar("Made")


def prefetched(make: Callable[[Key], Made], keys: Iterable[Key]) -> Iterator[Made]:
    """`make(key)` for each key in turn, the next one being made in a thread while the caller has the last."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = None
        for key in keys:
            following = thread.submit(make, key)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()
