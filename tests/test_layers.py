"""The rules of who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
LAYERS = ("streamrec_dist", "actors", "learners", "cli")
FORBIDDEN = {
    "streamrec_dist": {"actors", "learners", "cli", "ray", "typer", "rich"},
    "actors": {"learners", "cli", "typer", "rich"},
    "learners": {"actors", "cli", "typer", "rich"},
    "cli": set(),
}
#: Only these know both actors and learners.
COMPOSERS = {"cli/launch.py", "cli/conductor.py", "cli/estimate.py"}


def imported(source: str) -> Iterator[str]:
    """Top-level names of all packages that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield (node.module or "").partition(".")[0]


def sources(layer: str) -> list[Path]:
    return sorted((REPO / layer).rglob("*.py"))


def test_imports_are_found_inside_functions() -> None:
    source = "import os.path\ndef f():\n    from ray.util import state\n    import typer as t\n"
    assert set(imported(source)) == {"os", "ray", "typer"}


@pytest.mark.parametrize("layer", LAYERS)
def test_no_import_points_upwards(layer: str) -> None:
    assert sources(layer), f"no sources in {layer}"
    wrong = [
        f"{path.relative_to(REPO)} imports {name}"
        for path in sources(layer)
        for name in imported(path.read_text(encoding="utf-8"))
        if name in FORBIDDEN[layer]
    ]
    assert wrong == []


def test_only_the_composers_know_both_actors_and_learners() -> None:
    both = {
        path.relative_to(REPO).as_posix()
        for path in sources("cli")
        if {"actors", "learners"} & set(imported(path.read_text(encoding="utf-8")))
    }
    assert both <= COMPOSERS


@pytest.mark.parametrize("composer", sorted(COMPOSERS))
def test_what_runs_without_a_terminal_needs_no_terminal_packages(composer: str) -> None:
    assert not {"typer", "rich"} & set(imported((REPO / composer).read_text(encoding="utf-8")))
