"""What a screen is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text

from cli.dashboard.scene import Scene


@dataclass(frozen=True)
class Panel:
    """A part of the screen: `draw(scene, width, height)` gives its lines below the heading, `height` at most.

    It is drawn anew when events of its `kinds` have come, when its size is another, and, where it `ticks`, every
    second. `sizes(scene, width)` are the heights at which it tells more than at a smaller one, the smallest first.
    """

    name: str
    draw: Callable[[Scene, int, int], list[Text]]
    kinds: tuple[str, ...]
    sizes: Callable[[Scene, int], list[int]]
    head: Callable[[Scene, int], Text]
    #: Whether there is anything to tell.
    has: Callable[[Scene], bool]
    ticks: bool = False
