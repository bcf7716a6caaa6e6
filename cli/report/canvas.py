"""Sheets of axes in one style, as PNG on light ground and as SVG that follows the reader's light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cli.output import clean
from cli.report.theme import THEME, light, stylesheet

#: Pixels: the width of a sheet, and what is left around and between its axes.
WIDTH, LEFT, RIGHT, TOP, BOTTOM, ACROSS, DOWN = 1080, 52, 14, 58, 34, 52, 56
#: Pixels of a letter of a title.
LETTER = 7
#: Pixels of an inch, and dots of a PNG for each.
INCH, SHARP = 96, 2
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.parse_math": False,
    "text.color": light("ink"),
    "axes.edgecolor": light("line"),
    "axes.labelcolor": light("muted"),
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    # Looking for what a title might touch takes a third of the time.
    "axes.titley": 1.0,
    "grid.color": light("line"),
    "grid.linewidth": 0.6,
    "xtick.color": light("line"),
    "ytick.color": light("line"),
    "xtick.labelcolor": light("muted"),
    "ytick.labelcolor": light("muted"),
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "path.simplify_threshold": 0.3,
    "savefig.facecolor": "none",
    # Text stays text, and the same chart is the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "streamrec-dist",
}
SHADES = {shade.light: name for name, shade in THEME.items()}
COLOUR = re.compile("|".join(SHADES))
PLAIN = {"Date": None, "Creator": None, "Format": None, "Type": None}


class Sheet:
    """A titled figure with rows and columns of axes, `height` pixels each."""

    def __init__(self, title: str, subtitle: str, rows: int, columns: int, height: int, wide: bool = False):
        tall = TOP + rows * height + (rows - 1) * DOWN + BOTTOM
        self.figure = Figure(figsize=(WIDTH / INCH, tall / INCH), dpi=INCH)
        #: Room at the left for words instead of numbers.
        left = LEFT + 170 if wide else LEFT
        across = (WIDTH - left - RIGHT - (columns - 1) * ACROSS) / columns
        self.axes: list[Axes] = []
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            x, y = left + column * (across + ACROSS), tall - TOP - row * (height + DOWN) - height
            rectangle = (x / WIDTH, y / tall, across / WIDTH, height / tall)
            self.axes.append(self.figure.add_axes(rectangle))
        self.figure.text(8 / WIDTH, 1 - 8 / tall, clean(title), size=11, weight="bold", va="top")
        self.figure.text(
            1 - RIGHT / WIDTH, 1 - 10 / tall, clean(subtitle), color=light("muted"), ha="right", va="top"
        )

    def legend(self, axes: Axes) -> None:
        """The names of what these axes show, in one line beside the title."""
        handles, labels = axes.get_legend_handles_labels()
        tall = self.figure.get_figheight() * INCH
        self.figure.legend(
            handles,
            labels,
            ncols=len(labels),
            loc="upper left",
            bbox_to_anchor=(150 / WIDTH, 1 - 4 / tall),
            handlelength=1.2,
            columnspacing=1.4,
        )

    def drop(self, count: int) -> None:
        """Remove the axes behind the first `count`."""
        for axes in self.axes[count:]:
            axes.remove()

    def png(self) -> bytes:
        return self._saved("png", facecolor=light("paper"), dpi=INCH * SHARP)

    def svg(self) -> str:
        """With colours by name, which it holds for light and for dark ground."""
        text = self._saved("svg", metadata=PLAIN).decode()
        text = COLOUR.sub(lambda found: f"var(--{SHADES[found[0]]})", text[text.index("<svg") :])
        start = text.index(">") + 1
        return f"{text[:start]}<style>{stylesheet()}</style>{text[start:]}"

    def save(self, path: Path) -> None:
        """As PNG, SVG or PDF, by the name's ending, on light ground."""
        kind = path.suffix.removeprefix(".").lower()
        metadata = {"svg": PLAIN, "pdf": {"CreationDate": None}}.get(kind)
        path.write_bytes(self._saved(kind, facecolor=light("paper"), dpi=INCH * SHARP, metadata=metadata))

    def _saved(self, kind: str, **options: Any) -> bytes:
        made = io.BytesIO()
        with styled():
            self.figure.savefig(made, format=kind, **options)
        return made.getvalue()


@contextmanager
def styled() -> Iterator[None]:
    """The style in which sheets are made, and saved: a part of it is looked up only then."""
    with rc_context(STYLE), warnings.catch_warnings():
        # Of names in scripts that the font lacks: they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def plain_axes(axes: Axes, title: str, value: str = "", x: str = "", ticks: int = 4) -> None:
    """A title at the left, a value at the right, few ticks, and those written short."""
    room = int(axes.get_position().width * WIDTH / LETTER) - len(value)
    axes.set_title(_short(title, room), loc="left", size=8.5, weight="bold", pad=5)
    axes.set_title(value, loc="right", size=8, color=light("muted"), pad=5)
    if x:
        axes.set_xlabel(x, size=7.5, labelpad=2)
    axes.tick_params(length=2)
    plain = FuncFormatter(lambda tick, _: _tick(tick))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(plain)


def legend(axes: Axes, columns: int = 8, inside: bool = False) -> None:
    """Names of what is drawn, above it at the right in so many columns, or `inside` below one another."""
    if inside:
        axes.legend(loc="best", handlelength=1.2)
        return
    above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1.01), "borderaxespad": 0}
    axes.legend(ncols=columns, handlelength=1.2, columnspacing=1.2, **above)


def _tick(value: float) -> str:
    """10k and 2.5M for large ones."""
    if 1e6 <= abs(value) < 1e9:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if 1e4 <= abs(value) < 1e6 else f"{value:g}"


def _short(text: str, most: int) -> str:
    plain = " ".join(clean(text).split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"
