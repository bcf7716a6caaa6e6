"""What fills the screen: the panels of a run, one reward enlarged, its workers to choose from, a log, the help."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from cli.dashboard.chart import chart
from cli.dashboard.layout import arranged, bands, gap
from cli.dashboard.lines import ansi, filled, folded, heading, line, words, wrapped
from cli.dashboard.marks import number, percent
from cli.dashboard.panel import Panel
from cli.dashboard.panels import head, rewards
from cli.dashboard.panels.workers import Worker, whole, workers
from cli.dashboard.scene import Scene
from cli.errand import Errand

LOG_LINES = 2000
LOOKED_FOR = "is being looked for ..."
BACK = "esc back  q leave"


class Page:
    """`lines` fill the screen but for its status line; `press` takes a key, and gives what to show then."""

    #: Counts what changed by itself or by keys.
    changes = 0

    def rows(self, scene: Scene, width: int, height: int, styles: Mapping[str, str]) -> list[str]:
        return [ansi(text, styles) for text in filled(self.lines(scene, width, height), width, height)]

    def lines(self, scene: Scene, width: int, height: int) -> list[Text]:
        raise NotImplementedError

    def press(self, key: str, scene: Scene) -> Page:
        return self

    def keys(self, scene: Scene) -> str:
        """What the status line says of its keys."""
        return BACK

    def close(self) -> None:
        """It is shown no more."""


class RunPage(Page):
    """The panels of the current stage. Each is drawn anew only when what it shows has changed."""

    def __init__(self, counts: Counter[str]):
        """`counts` are of events by kind: how many came so far."""
        self.counts = counts
        self.drawn: dict[str, tuple[Any, list[str]]] = {}

    def rows(self, scene: Scene, width: int, height: int, styles: Mapping[str, str]) -> list[str]:
        rows = [ansi(text, styles) for text in head.head(scene, width)]
        for band, lines in arranged(bands(scene, width), scene, width, height - len(rows)):
            parts, at = [], 1
            for (panel, _), cells in zip(band.panels, band.widths(width), strict=True):
                parts.append((at, self._panel(panel, scene, cells, lines, styles)))
                at += cells + gap(width)
            # Placed by its column: text whose width the terminal sees differently moves nothing but itself.
            for row in range(lines + 1):
                beside = " " * gap(width)
                rows.append(beside.join(f"\x1b[{at}G{drawn[row]}" for at, drawn in parts))
        return rows[:height] + [" " * width] * (height - len(rows))

    def keys(self, scene: Scene) -> str:
        pause = "p go on" if scene.summary.paused else "p pause"
        acts = [] if scene.ended else ["s stop", pause, "c checkpoint"]
        large = ["1-6 reward"] if scene.stage and scene.stage.name == "rl" else []
        return "  ".join(["q leave", *acts, "l logs", *large, "[ ] stage", "? help"])

    def _panel(
        self, panel: Panel, scene: Scene, width: int, height: int, styles: Mapping[str, str]
    ) -> list[str]:
        key = (
            *(self.counts[kind] for kind in panel.kinds),
            *(
                scene.summary.stage,
                scene.at,
                scene.ended,
                width,
                height,
                int(scene.now) if panel.ticks else 0,
            ),
        )
        known = self.drawn.get(panel.name)
        if known is None or known[0] != key:
            lines = [panel.head(scene, width), *filled(panel.draw(scene, width, height), width, height)]
            known = self.drawn[panel.name] = key, [ansi(text, styles) for text in lines]
        return known[1]


class RewardPage(Page):
    """The course of one reward over all steps."""

    def __init__(self, name: str):
        self.name = name

    def lines(self, scene: Scene, width: int, height: int) -> list[Text]:
        lines = head.head(scene, width)
        key = f"reward/{self.name}"
        lines.append(heading(f"reward {self.name}", width, scene.ascii_only))
        lines.append(line((rewards.MEANINGS[self.name], "label")))
        facts = self._facts(scene, width)
        lines += chart(scene.course(key), width, height - len(lines) - len(facts), scene.ascii_only)
        return lines + facts

    def keys(self, scene: Scene) -> str:
        return f"1-6 other reward  {BACK}"

    def _facts(self, scene: Scene, width: int) -> list[Text]:
        course = scene.course(f"reward/{self.name}")
        buckets = course.buckets if course else []
        low = min((bucket.low for bucket in buckets), default=None)
        high = max((bucket.high for bucket in buckets), default=None)
        pairs = [("newest", number(scene.value(f"reward/{self.name}"))), ("lowest", number(low))]
        pairs += [("highest", number(high)), ("spread in groups", number(scene.value(f"spread/{self.name}")))]
        if self.name != "total":
            pairs.append(("weight", number(rewards.weight(scene, self.name))))
            pairs.append(("of the advantage", percent(scene.value(f"share/{self.name}"))))
        lines = wrapped((f"{name} {value}" for name, value in pairs), width)
        wrong = rewards.mark(scene, self.name)
        return [*lines, line((rewards.told(self.name, wrong), "warn"))] if wrong in rewards.FAULTS else lines


class WorkersPage(Page):
    """All processes, of which one is chosen for its log."""

    def __init__(self, run: Path):
        self.run, self.chosen, self.first = run, 0, 0

    def lines(self, scene: Scene, width: int, height: int) -> list[Text]:
        found = workers(scene)
        self.chosen = max(0, min(self.chosen, len(found) - 1))
        room = max(1, height - head.HEIGHT - 1)
        self.first = max(min(self.first, self.chosen), self.chosen - room + 1)
        lines = [*head.head(scene, width), heading("whose log?", width, scene.ascii_only)]
        if not found:
            return [
                *lines,
                line("no process has been told of; `streamrec-dist logs` shows which logs there are"),
            ]
        for place, worker in list(enumerate(found))[self.first : self.first + room]:
            text = line((f"{place + 1:>3} ", "label")).append_text(whole(worker, width - 4))
            lines.append(line((text.plain, "chosen")) if place == self.chosen else text)
        return lines

    def keys(self, scene: Scene) -> str:
        return f"up, down, enter, or 1-9: its log  {BACK}"

    def press(self, key: str, scene: Scene) -> Page:
        found = workers(scene)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -10, "page down": 10}
        if key in steps:
            self.chosen += steps[key]
            self.changes += 1
        elif key.isdecimal() and 1 <= int(key) <= len(found):
            return LogPage(self.run, found[int(key) - 1])
        elif key == "enter" and found:
            return LogPage(self.run, found[min(self.chosen, len(found) - 1)])
        return self


class LogPage(Page):
    """The end of a worker's log, and what is added."""

    def __init__(self, run: Path, worker: Worker):
        self.worker = worker
        self.errand = Errand(run, "log", worker.role, worker.node, str(worker.pid), lasting=True)
        self.text: deque[str] = deque(maxlen=LOG_LINES)
        self.state, self.up = LOOKED_FOR, 0

    def poll(self) -> None:
        """Take what the log has by now."""
        over, before = self.errand.over, self.state
        for told in self.errand.told():
            self.changes += 1
            if "error" in told:
                self.state = f"cannot be read: {told['error']}"
                return
            self.text.extend(told["text"].splitlines())
            self.state = "" if self.text else "is empty so far"
            if told.get("ended"):
                self.state = "its process has ended" if self.text else "is empty, and its process has ended"
        if over and self.state == LOOKED_FOR:
            self.state = "cannot be read: the cluster does not answer"
        self.changes += self.state != before

    def lines(self, scene: Scene, width: int, height: int) -> list[Text]:
        room = max(0, height - 1)
        broken = [part for text in list(self.text)[-(room + self.up) :] for part in _folded(text, width)]
        self.up = max(0, min(self.up, len(broken) - room))
        shown = broken[len(broken) - self.up - room if len(broken) > self.up + room else 0 :][:room]
        title = f"log of {self.worker.name}, process {self.worker.pid} on {self.worker.node}"
        top = heading(title, width, scene.ascii_only, self.state if self.text else "")
        said = folded(words(f"the log {self.state}"), width, 3)
        return [top, *(map(line, shown) if self.text else (line((part, "label")) for part in said))]

    def keys(self, scene: Scene) -> str:
        return f"up, down, page up, page down  {BACK}"

    def press(self, key: str, scene: Scene) -> Page:
        steps = {"up": 1, "k": 1, "down": -1, "j": -1, "page up": 20, "page down": -20}
        if key in steps:
            self.up = max(0, self.up + steps[key])
            self.changes += 1
        return self

    def close(self) -> None:
        self.errand.end()


def _folded(text: str, width: int) -> list[str]:
    return folded(words(text), width, 4) or [""]


class HelpPage(Page):
    """The keys, and the words that the panels use."""

    def lines(self, scene: Scene, width: int, height: int) -> list[Text]:
        lines = [heading("help", width, scene.ascii_only)]
        for name, meaning in HELP:
            lines.append(line((f" {name:<13}", "title"), meaning))
        return lines


HELP = (
    ("q", "leave this view: the run goes on, and `watch` shows it again"),
    ("s, p, c", "stop it after a checkpoint; pause it, or go on; checkpoint now"),
    ("l, 1 to 6", "the log of one of its processes; one of its rewards, large"),
    ("[ and ]", "the stage before, or after, the one that is shown"),
    ("", ""),
    ("reward", "what a sampled recommendation is worth, and its five terms"),
    ("spread", "how far the rollouts of a prompt lie apart; 0: nothing to learn"),
    ("share", "of the advantage, by which is learned; over 80 % it dominates"),
    ("KL to start", "how far the policy has gone; x: what that weighs in the loss"),
    ("entropy", "how undecided it is at a token; near 0 it explores no more"),
    ("clipped", "tokens beyond the limit of the ratio: nothing is learned there"),
    ("ratio", "how much likelier tokens are than when they were sampled"),
    ("gradient", "how long it was; a longer one than the limit is cut to it"),
    ("groups", "prompts learned from; no signal: rollouts of the same worth"),
    ("idle", "share of the time in which learners, or actors, had no work"),
    ("staleness", "versions between the weights that sampled and that learn"),
    ("waiting", "prompts with their rewards that no step has learned from"),
    ("weights", "age of the newest, and (in brackets) how long they travelled"),
    ("NDCG@10", "how high the item that was taken stands among ten"),
    ("invalid", "answers that are no item, where nothing forbids them"),
    ("leak", "what annotated thoughts give away of the target"),
)


def legend(page: Page, message: tuple[str, str], scene: Scene) -> Text:
    """The status line: a message while there is one, else the keys."""
    text, style = message
    return line((words(text), style)) if text else line((page.keys(scene), "label"))


REWARD_KEYS = {str(place): name for place, name in enumerate(rewards.ROWS, start=1)}
