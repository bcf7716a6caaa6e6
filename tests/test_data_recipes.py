"""Recipes by name, the list of formats, and the table of sources."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cli.app import app
from streamrec_dist.config_file import parse_config
from streamrec_dist.data.addresses import ADDRESSES
from streamrec_dist.data.formats import DEMO, FORMATS
from streamrec_dist.data.known import known_sets
from streamrec_dist.data.readers import SOURCES
from streamrec_dist.data.recipes import RECIPES, Counts, Recipe, named
from streamrec_dist.errors import ConfigError
from tests.conftest import REPO


def test_the_papers_recipes():
    scientific = named("stream-rec/scientific")
    assert (scientific.user_core, scientific.item_core, scientific.min_rating) == (5, 5, None)
    assert (str(scientific.split), scientific.max_history) == ("leave-one-out", 20)
    assert scientific.record()["name"] == "stream-rec/scientific"
    assert scientific.expected == Counts(50_985, 25_848, 412_947)
    assert named("stream-rec/instruments").expected == Counts(57_349, 24_587, 511_836)
    yelp, software, cds = named("rearec/yelp"), named("rearec/software"), named("rearec/cds")
    assert yelp.filter_text() == "rating > 3, users >= 20, items >= 20"
    assert yelp.split.text() == "2018-09-04, 2020-05-12"
    assert software.filter_text() == "rating > 3, users >= 5"
    assert cds.filter_text() == "rating > 3, users >= 10"
    assert str(software.split) == "1628643414042,1658002729837"
    assert {recipe.max_history for name, recipe in RECIPES.items() if name.startswith("rearec/")} == {50}
    with pytest.raises(ConfigError, match="did you mean 'rearec/software'"):
        named("rearec/sofware")


def test_a_recipe_without_filters_says_so():
    plain = Recipe("csv")
    assert (plain.filter_text(), plain.filters, plain.has_core) == ("none", False, False)
    assert Recipe("csv", min_rating=3).filters
    with pytest.raises(ConfigError, match="user_core 0: expected at least 1"):
        Recipe("csv", user_core=0)
    for rating in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"min_rating {rating}: expected a finite number"):
            Recipe("csv", min_rating=rating)


def test_differences_to_a_paper():
    found = {"users": 9, "items": 20, "interactions": 31}
    assert Counts(10, 20, 30).differences(found) == {
        "users": (10, 9),
        "items": (20, 20),
        "interactions": (30, 31),
    }


def test_every_format_has_a_source_and_only_these():
    assert {*SOURCES, DEMO} == set(FORMATS)


def test_a_wrong_format_in_the_configuration_gets_a_hint():
    for name in FORMATS:
        assert parse_config(f"data: {{format: {name}, path: {'null' if name == DEMO else 'x'}}}", "f")
    with pytest.raises(ConfigError, match=r"f:1: data\.format: .*'parquet'.*did you mean parquet\?"):
        parse_config("data: {format: parkuet, path: x}", "f")


def test_every_recipe_is_listed():
    listed = {one.name: one for one in known_sets()}
    assert set(RECIPES) <= set(listed)
    assert listed["rearec/cds"].raw == "amazon2023/cds-and-vinyl-5core-split"


@pytest.mark.parametrize("width", [80, 60])
def test_names_in_the_list_are_in_one_piece(width: int):
    shown = CliRunner().invoke(app, ["data", "list"], env={"COLUMNS": str(width)})
    lines = shown.stdout.splitlines()
    assert max(len(line) for line in lines) <= width
    assert {line.split(" ")[0] for line in lines} >= {one.name for one in known_sets()}


def test_the_set_that_a_recipe_is_meant_for_is_known_and_documented():
    documented = (REPO / "docs" / "sources.md").read_text(encoding="utf-8")
    for name, recipe in RECIPES.items():
        assert recipe.raw in ADDRESSES
        found = ADDRESSES[recipe.raw]
        assert found.format == recipe.format
        fetched = f"`{recipe.raw}`" if found.files else "by hand"
        assert f"| `{name}` | {fetched}" in documented
