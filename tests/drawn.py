"""What the pages of the live view draw, as a terminal would show it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from cli.dashboard.pages import HelpPage, Page, RewardPage, RunPage, WorkersPage
from cli.dashboard.panels.rewards import ROWS
from cli.dashboard.scene import Scene
from streamrec_dist.config import Config
from streamrec_dist.summary import RunSummary


def scene_of(summary: RunSummary, now: float, config: Config | None = None, **more: object) -> Scene:
    return Scene(summary, now, config or Config(), **more)  # type: ignore[arg-type]


def pages() -> list[Page]:
    return [RunPage(Counter()), *map(RewardPage, ROWS), WorkersPage(Path("runs/demo")), HelpPage()]


def screen(scene: Scene, width: int = 80, height: int = 24, page: Page | None = None) -> str:
    """The rows of a page, each put together from its parts by the columns that they are placed at."""
    rows = (page or RunPage(Counter())).rows(scene, width, height, {})
    assert len(rows) == height
    return "\n".join(map(_placed, rows))


def _placed(row: str) -> str:
    text, *parts = re.split(r"\x1b\[(\d+)G", row)
    for column, part in zip(parts[::2], parts[1::2], strict=True):
        text = text[: int(column) - 1].ljust(int(column) - 1) + part
    return text
