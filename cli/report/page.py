"""The page: a template that escapes all it is given, and text that cannot pretend to be something else."""

from __future__ import annotations

import unicodedata
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cli.report.theme import stylesheet

#: Characters of a title, and of any other text of a run, that are shown.
TITLE, TEXT = 120, 600
#: Marks that may follow one another on a letter: more are drawn over the lines around it.
STACKED = 4
#: Format characters that turn the direction of what comes after them.
TURNING = range(0x202A, 0x202F), range(0x2066, 0x206A)


def render(**content: Any) -> str:
    """The HTML of a report: `page.html` with `content`, whose text is escaped and shown as `visible` has it."""
    source = files("cli.report").joinpath("page.html").read_text(encoding="utf-8")
    css = files("cli.report").joinpath("page.css").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_final, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"title": lambda text: short(text, TITLE), "text": lambda text: short(text, TEXT)}
    # Both are ours, with nothing of the run in them.
    return environment.from_string(source).render(css=Markup(stylesheet() + css), **content)


def _final(value: Any) -> Any:
    return value if isinstance(value, Markup) or not isinstance(value, str) else visible(value)


def visible(text: str) -> str:
    """Text with its control characters, and those that turn its direction, as signs; no stacks of marks."""
    shown, marks = [], 0
    for char in text:
        kind = unicodedata.category(char)
        marks = marks + 1 if kind in ("Mn", "Me") else 0
        if marks <= STACKED:
            shown.append(_sign(char, kind))
    return "".join(shown)


def _sign(char: str, kind: str) -> str:
    code = ord(char)
    if char in "\n\t" or kind not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return char
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if kind == "Cf" and not any(code in turning for turning in TURNING):
        # Joiners and the like, without which emoji and some scripts fall apart.
        return char
    return "\ufffd" if kind in ("Cs", "Co", "Cn") else f"\u27e8U+{code:04X}\u27e9"


def short(text: object, most: int) -> str:
    """Text in one line, cut where it is longer."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
