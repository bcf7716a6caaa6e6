"""The rewards of stage 3: the total and the five terms, and which of them does not do its part."""

from __future__ import annotations

import re

from rich.text import Text

from cli.dashboard.lines import fit, left, line, right
from cli.dashboard.marks import brief, number, percent, sparkline, trend
from cli.dashboard.panel import Panel
from cli.dashboard.scene import Scene
from streamrec_dist.rl.ledger import DEAD, DOMINATES, TOTAL, Mark, mark_of
from streamrec_dist.types import REWARDS

ROWS = (TOTAL, *REWARDS)
#: Of fewer steps nothing is said.
ENOUGH = 5
#: Cells of the columns behind the course.
WEIGHT, SPREAD, SHARE, NOTE = 7, 7, 7, 10
MEANINGS = {
    "total": "the weighted sum, by which the rollouts of a prompt are compared",
    "format": "0 where the codes are an item of the catalogue, -1 where they are none",
    "exact_match": "how many codes, from the first on, are those of the item that was taken",
    "similarity": "how near the model's states are to that item among others: -.1 to .5",
    "likelihood": "how much likelier the thoughts make that item, against the other rollouts",
    "ranking": "where that item stands among those like it, after these thoughts: -.1 to .2",
}


#: What is to be told of: the other marks of a term are as somebody wanted it, or may pass.
FAULTS = (Mark.dead, Mark.dominates)
#: Marks in one word, and how they are shown.
NOTES = {Mark.ok: "", Mark.met: "met", Mark.against: "against"}
STYLES = {Mark.dead: "bad", Mark.off: "label", Mark.met: "label"}


def weight(scene: Scene, name: str) -> float | None:
    """By how much a term counts in the total, as the run was told."""
    return getattr(scene.config.stages.rl.rewards, name) if scene.config and name != "total" else None


def mark(scene: Scene, name: str) -> Mark:
    """What is to be noticed of a term, by its newest steps."""
    counts = weight(scene, name)
    if counts == 0:
        return Mark.off
    if len(scene.lately(f"spread/{name}")) < ENOUGH:
        return Mark.ok
    reward, spread, share, total = (
        scene.mean(key) or 0.0
        for key in (f"reward/{name}", f"spread/{name}", f"share/{name}", f"spread/{TOTAL}")
    )
    # Where the configuration is not known, terms count as they do by default.
    known = None if name == TOTAL else 1.0 if counts is None else counts
    return mark_of(name, known, reward, spread, share, total)


def told(name: str, wrong: Mark) -> str:
    """A fault in words."""
    if wrong is Mark.dead and name == TOTAL:
        return "the total reward is dead: the same for all rollouts of a prompt"
    if wrong is Mark.dead:
        return f"reward {name} is dead: less than {percent(DEAD)} of what rollouts of a prompt differ by"
    return f"reward {name} dominates: more than {percent(DOMINATES)} of the advantage"


def faults(scene: Scene) -> list[str]:
    """What is wrong with the rewards of the current stage, in words."""
    if scene.stage is None or scene.stage.name != "rl":
        return []
    found = ((name, mark(scene, name)) for name in ROWS)
    return [told(name, wrong) for name, wrong in found if wrong in FAULTS]


def _draw(scene: Scene, width: int, height: int) -> list[Text]:
    return [_row(scene, key, name, width) for key, name in enumerate(ROWS, start=1)][:height]


def _row(scene: Scene, key: int, name: str, width: int) -> Text:
    wrong = mark(scene, name)
    note = NOTES.get(wrong, wrong.value)
    # Of the steps by which the term is marked.
    share, means = scene.mean(f"share/{name}"), scene.means(f"reward/{name}")
    style = STYLES.get(wrong, "warn")
    row = line(
        (f"{key} ", "label"),
        (left(name, 12), "title" if name == "total" else ""),
        right(number(scene.value(f"reward/{name}"), 7), 7),
        (f" {trend(means, scene.ascii_only):<2}", "mark"),
    )
    course = sparkline(means, _room(width), scene.ascii_only)
    row.append(left(course, _room(width)), "mark")
    row.append(right("" if name == "total" else brief(weight(scene, name)), WEIGHT))
    row.append(right(number(scene.value(f"spread/{name}"), SPREAD - 1), SPREAD))
    if name == "total":
        row.append(" " * SHARE)
    elif _has_notes(width):
        row.append(right(percent(share), SHARE))
    else:
        shown = note if wrong in (Mark.dead, Mark.off, Mark.met) else percent(share) + "!" * bool(note)
        row.append(right(shown, SHARE), style if note else "")
    if _has_notes(width):
        row.append(left(f" {note}", NOTE), style)
    return fit(row, width)


def _has_notes(width: int) -> bool:
    return width >= 60


def _room(width: int) -> int:
    """Cells for a course."""
    fixed = 2 + 12 + 7 + 3 + WEIGHT + SPREAD + SHARE + NOTE * _has_notes(width)
    return max(0, width - fixed)


def _heading(scene: Scene, width: int) -> Text:
    """The rule above the rows, with the names of the columns over them."""
    rule = "-" if scene.ascii_only else "─"
    room = _room(width)
    names = left("── rewards", 14) + right("mean", 7) + "   " + left("course" if room >= 8 else "", room)
    names += right("weight", WEIGHT) + right("spread", SPREAD) + right("share", SHARE)
    # Rules where nothing is.
    text = re.sub(" {3,}", lambda gap: f" {rule * (len(gap[0]) - 2)} ", left(names, width + 3))[:width]
    start, name, rest = text.replace("─", rule).partition("rewards")
    return fit(line((start, "label"), (name, "title"), (rest, "label")), width)


def _has(scene: Scene) -> bool:
    return scene.course("reward/total") is not None


PANEL = Panel("rewards", _draw, ("step", "run", "stage"), lambda scene, width: [len(ROWS)], _heading, _has)
