"""The data sets that are known by name: recipes, and raw sets that can be fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamrec_dist.data.recipes import RECIPES


@dataclass(frozen=True)
class Known:
    """A row of `data list`. `raw` is the public set behind it; `fetch` says whether that can be had."""

    name: str
    format: str
    filter: str
    split: str
    max_history: int | None
    raw: str | None
    fetch: bool


def known_sets() -> list[Known]:
    """Every recipe, then the public sets by themselves."""
    addresses = _addresses()
    recipes = [
        Known(
            name,
            recipe.format,
            recipe.filter_text(),
            recipe.split.text(),
            recipe.max_history,
            recipe.raw,
            _fetchable(addresses, recipe.raw),
        )
        for name, recipe in RECIPES.items()
    ]
    raw = [
        Known(name, found.format, "", "", None, name, _fetchable(addresses, name))
        for name, found in addresses.items()
    ]
    return recipes + raw


def _addresses() -> Mapping[str, Any]:
    try:
        from streamrec_dist.data.fetch import ADDRESSES
    except ModuleNotFoundError:
        return {}
    return ADDRESSES


def _fetchable(addresses: Mapping[str, Any], name: str | None) -> bool:
    """A set without files has no public address: its page asks for consent."""
    return name is not None and name in addresses and bool(addresses[name].files)
