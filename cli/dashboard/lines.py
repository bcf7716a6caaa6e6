"""Lines of a screen: text with styles, in exactly so many cells of the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from cli.output import clean

#: What styles are as SGR parameters. Hues of middling lightness: they stand out from white and from black alike.
PALETTE = {
    "title": "1",
    "label": "38;5;244",
    "mark": "38;5;32",
    "good": "38;5;28",
    "warn": "1;38;5;166",
    "bad": "1;38;5;160",
    "chosen": "7",
}
#: Of terminals with sixteen colours, whose shades are their user's affair: the few that no theme makes unreadable.
SIXTEEN = {"title": "1", "good": "32", "warn": "1;35", "bad": "1;31", "chosen": "7"}
COLOURLESS = {"title": "1", "warn": "1", "bad": "1", "chosen": "7"}
#: Longer texts are cut before anything is done with them.
LONGEST = 2000

Part = str | tuple[str, str]


def palette(console: Console) -> Mapping[str, str]:
    """What the terminal of a console can show; no colours under NO_COLOR."""
    if console.no_color or console.color_system is None:
        return COLOURLESS
    return SIXTEEN if console.color_system in ("standard", "windows") else PALETTE


def line(*parts: Part) -> Text:
    """Texts one after the other, each alone or with a style."""
    text = Text()
    for part in parts:
        text.append(*((part,) if isinstance(part, str) else part))
    return text


def words(text: object, limit: int = LONGEST) -> str:
    """Text from data or names on one line, without what could drive the terminal."""
    cut = str(text)[: limit + 1]
    return " ".join(clean(cut if len(cut) <= limit else f"{cut[:limit]}…").split())


def left(text: str, width: int) -> str:
    """A text in exactly so many cells, at their left."""
    if text.isascii() and len(text) <= width:
        return text.ljust(width)
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + "…" if width > 0 else ""


def right(text: str, width: int) -> str:
    """A text in exactly so many cells, at their right."""
    size = len(text) if text.isascii() else cell_len(text)
    return " " * (width - size) + text if size <= width else left(text, width)


def fit(text: Text, width: int) -> Text:
    """A line in exactly so many cells."""
    if cell_len(text.plain) != width:
        text.truncate(max(0, width), overflow="ellipsis", pad=True)
    return text


def ends(start: Text, end: Text, width: int) -> Text:
    """Two texts at the ends of a line; of what has no room, the first gives way."""
    room = width - end.cell_len - 1
    if room < 8:
        return fit(start, width)
    return fit(start, room).append(" ").append_text(end)


def heading(title: str, width: int, ascii_only: bool, note: str = "") -> Text:
    """The line above a panel: a rule with its title, and at its end a note."""
    rule = "-" if ascii_only else "─"
    start = line((rule * 2, "label"), " ", (title, "title"), " ")
    end = f" {note} {rule}" if note and start.cell_len + cell_len(note) + 4 <= width else ""
    start.append(rule * max(0, width - start.cell_len - cell_len(end)), "label")
    return fit(start.append(end, "label"), width)


def wrapped(parts: Iterable[Part], width: int, gap: str = "  ") -> list[Text]:
    """Texts beside one another, in as many lines as they need; none is broken, one that has no room is cut."""
    found: list[Text] = []
    for part in parts:
        text = line(part)
        if found and found[-1].cell_len + len(gap) + text.cell_len <= width:
            found[-1].append(gap).append_text(text)
        else:
            found.append(text)
    return found


def folded(text: str, width: int, most: int) -> list[str]:
    """A text broken between words into at most so many lines; the last one is cut."""
    found: list[str] = []
    rest = text
    while rest and len(found) < most - 1 and cell_len(rest) > width:
        head = set_cell_size(rest, width)
        at = head.rfind(" ")
        head = head[:at] if at > width // 2 else head.rstrip()
        if not head or not rest.startswith(head):
            break
        found.append(head)
        rest = rest[len(head) :].lstrip()
    return [*found, left(rest, width).rstrip()] if rest else found


def ansi(text: Text, styles: Mapping[str, str]) -> str:
    """A line as a terminal takes it. Styles lie one after the other, as `line` puts them."""
    plain, found, at = text.plain, [], 0
    for span in text.spans:
        code = styles.get(str(span.style), "")
        if code and span.start < span.end:
            found.append(f"{plain[at : span.start]}\x1b[{code}m{plain[span.start : span.end]}\x1b[m")
            at = span.end
    found.append(plain[at:])
    return "".join(found)


def filled(lines: Sequence[Text], width: int, height: int) -> list[Text]:
    """Exactly `height` lines of `width` cells."""
    shown = [fit(text, width) for text in lines[:height]]
    return shown + [Text(" " * width) for _ in range(height - len(shown))]
