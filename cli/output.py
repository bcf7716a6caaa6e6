"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamrec_dist.metrics import MEASURES

#: Measures that fit beside one another.
COLUMNS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
#: No script needs more marks upon one letter.
STACKED = 3
#: Below this, p-values are written as a bound.
SMALL_P = 0.0001


def note(message: str) -> None:
    """A line for the reader, on stderr."""
    print(clean(message), file=sys.stderr, flush=True)


def emit_json(body: Mapping[str, Any]) -> None:
    """The result of a command for a script: one object on one line."""
    print(json.dumps(body, ensure_ascii=False), flush=True)


def clean(text: object) -> str:
    """Text from data or names, without what could drive a terminal, or reach out of its own line.

    Control characters, also those that turn the direction of text, become visible. Marks upon a letter are STACKED at
    most; those that only choose between pictures of it, whose width terminals do not agree about, are left out.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    shown, stacked = [], 0
    for char in text:
        stacked = stacked + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        if stacked <= STACKED and not "\ufe00" <= char <= "\ufe0f":
            shown.append(char if char.isprintable() or char in "\n\t" else "\ufffd")
    return "".join(shown)


def cell(text: object, style: str = "") -> Text:
    """Text in a table: control characters removed, markup not interpreted."""
    return Text(" ".join(clean(text).split()), style=style)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> Table:
    """A plain table; the first `left` columns are aligned to the left, the rest to the right."""
    drawn = Table(
        title=cell(title),
        title_justify="left",
        padding=(0, 1, 0, 0),
        box=None,
        pad_edge=False,
        header_style="bold",
        show_header=any(columns),
    )
    for number, column in enumerate(columns):
        drawn.add_column(cell(column), justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(value if isinstance(value, Text) else cell(value) for value in row))
    return drawn


def show(renderable: Any, to_stderr: bool = False) -> None:
    """Print a table or text on stdout, or for the reader beside a script's result on stderr."""
    Console(soft_wrap=False, stderr=to_stderr).print(renderable)


def four(value: float) -> str:
    """Four digits after the point, without the zero before it: .0305."""
    return f"{value:.4f}".removeprefix("0")


def measured(result: Mapping[str, Any], measure: str) -> Text:
    """A measure and, below it, its 95 % interval."""
    value, ends = result.get(measure), result.get(f"{measure}_ci")
    if value is None:
        return Text("-")
    return Text(f"{four(value)}\n{interval(ends)}" if ends else four(value))


def interval(ends: Sequence[float], text: Callable[[float], str] = four) -> str:
    """An interval in brackets: [.0277 .0334]."""
    return f"[{text(ends[0])} {text(ends[1])}]"


def signed(value: float) -> str:
    """Four digits after the point, with the sign: +.0305."""
    return f"{value:+.4f}".replace("0.", ".", 1)


def chance(p: float) -> str:
    """A p-value; below what the randomisation test can tell apart, that it is below."""
    return f"< {four(SMALL_P)}" if p < SMALL_P else four(p)


def decoded(decoding: Mapping[str, Any]) -> str:
    """How a result was decoded, such as `greedy thoughts, beam 20`."""
    beam = f"beam {decoding['beam']}"
    return {
        "none": beam,
        "greedy": f"greedy thoughts, {beam}",
        "sampled": f"{decoding['samples']} sampled thoughts, {beam}",
        "beam": f"{beam} over thoughts and item",
    }[decoding["thoughts"]]


def title_of(measure: str) -> str:
    """A measure as people write it: Recall@10, NDCG@10, MRR@20."""
    return measure.replace("recall", "Recall").replace("ndcg", "NDCG").replace("mrr", "MRR")


def measures(title: str, columns: Iterable[tuple[str, Mapping[str, Any]]]) -> Table:
    """All measures below one another, models side by side."""
    columns = list(columns)
    rows = ([title_of(name), *(measured(result, name) for _, result in columns)] for name in MEASURES)
    return table(title, ["", *(name for name, _ in columns)], rows)


def comparison(title: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Table:
    """Models below one another, their measures with intervals side by side."""
    return table(
        title,
        ["", *map(title_of, COLUMNS)],
        ([name, *(measured(result, measure) for measure in COLUMNS)] for name, result in rows),
    )


def span(seconds: float) -> str:
    """A length of time for people: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
