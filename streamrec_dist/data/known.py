"""The data sets that are known by name: recipes, and raw sets that can be fetched."""

from __future__ import annotations

from dataclasses import dataclass

from streamrec_dist.data.addresses import ADDRESSES
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
    recipes = [
        Known(
            name,
            recipe.format,
            recipe.filter_text(),
            recipe.split.text(),
            recipe.max_history,
            recipe.raw,
            _fetchable(recipe.raw),
        )
        for name, recipe in RECIPES.items()
    ]
    raw = [
        Known(name, found.format, "", "", None, name, _fetchable(name)) for name, found in ADDRESSES.items()
    ]
    return recipes + raw


def _fetchable(name: str | None) -> bool:
    """A set without files has no public address: its page asks for consent."""
    return name is not None and name in ADDRESSES and bool(ADDRESSES[name].files)
