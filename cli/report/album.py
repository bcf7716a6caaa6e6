"""The charts of one report: each drawn once, kept as a PNG file and, for the page, as SVG."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from cli.curves import Curve, courses
from cli.output import four
from cli.report import figures
from cli.report.canvas import Sheet, styled
from cli.report.facts import Facts
from cli.report.groups import grouped
from cli.report.judged import MEASURE, scalings
from cli.report.theme import SERIES
from cli.report.utilisation import Utilisation
from cli.report.verdict import validation
from streamrec_dist.rundir import write_atomically
from streamrec_dist.summary import StageSummary
from streamrec_dist.types import REWARDS

#: Points of a small chart and of a wide one.
SMALL, WIDE = 200, 500
#: Small charts of a report at most: each takes some milliseconds, and events may name any number of metrics.
MOST = 400


@dataclass(frozen=True)
class Chart:
    """A chart in the page: its name, which that of its file begins with, what it shows, and its source."""

    name: str
    alt: str
    source: Markup


class Album:
    """Draws into a folder. `left_out` counts metrics for which there was no room."""

    def __init__(self, folder: Path, facts: Facts):
        self.folder, self.facts = folder, facts
        self.made: list[str] = []
        self.room = MOST
        self.left_out = 0
        self.subtitle = f"run {facts.run.name}"

    def keep(self, name: str, sheet: Sheet, alt: str) -> Chart:
        file = f"{name}.png"
        write_atomically(self.folder / file, sheet.png())
        self.made.append(file)
        packed = base64.b64encode(sheet.svg().encode()).decode()
        return Chart(name, alt, Markup(f"data:image/svg+xml;base64,{packed}"))

    def remove_older(self) -> None:
        """Charts of an earlier report that this one has none of."""
        for path in self.folder.glob("*.png"):
            if path.name not in self.made:
                path.unlink()

    # what there is a chart of

    def evaluation(self) -> Chart | None:
        setting = self.facts.setting
        if setting is None:
            return None
        rows = [(row.label, row.measures[MEASURE]) for row in setting.rows]
        drawn = [(name, one.value, one.interval) for name, one in rows]
        with styled():
            sheet = figures.intervals(
                "NDCG@10 and 95 % intervals", f"{setting.title}, {self.subtitle}", drawn
            )
            said = "; ".join(f"{name} {four(one.value)}" for name, one in rows)
            return self.keep("evaluation", sheet, f"NDCG@10 on {setting.title}: {said}")

    def validation(self) -> Chart | None:
        stages = [(stage.name, validation(stage)) for stage in self.facts.summary.stages.values()]
        stages = [(name, points) for name, points in stages if points]
        if not stages:
            return None
        with styled():
            sheet = figures.evaluations(self.subtitle, stages[:12])
            return self.keep("validation", sheet, "Validation NDCG@10 by step of each stage, with intervals")

    def scaling(self) -> Chart | None:
        found = [one for one in scalings(self.facts.results.found) if one.sampled][: len(SERIES)]
        if not found:
            return None
        with styled():
            levels = [(f"{one.title}: {name}", value) for one in found for name, value, _ in one.others]
            sheet = figures.scaling(self.subtitle, [(one.title, one.sampled) for one in found], levels)
            return self.keep("test-time-scaling", sheet, "NDCG@10 by the number of sampled thoughts")

    def ledger(self, rl: StageSummary) -> Chart | None:
        kinds = (("reward", "mean"), ("spread", "spread within groups"), ("share", "share of the advantage"))
        groups = []
        for kind, title in kinds:
            names = [f"{kind}/{name}" for name in (*REWARDS, "total")]
            groups.append((title, [self._curve(rl, name, WIDE) for name in names if name in rl.courses]))
        if not any(curves for _, curves in groups):
            return None
        with styled():
            return self.keep(
                "reward-ledger",
                figures.ledger_courses(self.subtitle, groups),
                "Each term of the reward by step: mean, spread within groups, share of the advantage",
            )

    def staleness(self, rl: StageSummary) -> Chart | None:
        course = self._curve(rl, "staleness", SMALL) if "staleness" in rl.courses else None
        if not rl.staleness and course is None:
            return None
        with styled():
            sheet = figures.staleness(self.subtitle, rl.staleness, course)
            return self.keep("staleness", sheet, "Versions that rollouts were behind: how many, and by step")

    def utilisation(self, found: Utilisation) -> Chart:
        with styled():
            return self.keep(
                "utilisation",
                figures.utilisation_timeline(self.subtitle, found),
                "Idle time, and processes of each role at each part of their work, by minute",
            )

    def rounds(self, stage: StageSummary) -> Chart | None:
        """Stage 2: losses under own and annotated thoughts by round, distances to the target by step of thinking."""
        by_round = {event.step: event.metrics for event in stage.rounds}
        nll = []
        for name, label in (("sampled_nll", "own thoughts"), ("gold_nll", "annotated thoughts")):
            points = [(step, found[name]) for step, found in by_round.items() if _number(found.get(name))]
            nll.append((label, points))
        distances = []
        for step, found in list(by_round.items())[-4:]:
            values = found.get("distance")
            if isinstance(values, list) and values and all(_number(value) for value in values[:64]):
                distances.append((f"round {step}", list(enumerate(values[:64]))))
        series = [("-log P(target), by round", [line for line in nll if line[1]])]
        series.append(("distance to the target, by step of thinking", distances))
        series = [one for one in series if one[1]]
        if not series:
            return None
        with styled():
            sheet = figures.rounds(self.subtitle, series)
            return self.keep("rounds", sheet, "How the model thinks, by round of stage 2")

    def curves(self, stage: StageSummary, number: int) -> Iterator[tuple[str, Chart]]:
        """Small charts of all metrics of a stage, by group."""
        for place, (group, metrics) in enumerate(grouped(courses(stage)).items()):
            drawn = metrics[: self.room]
            self.room -= len(drawn)
            self.left_out += len(metrics) - len(drawn)
            if not drawn:
                continue
            with styled():
                made = [self._curve(stage, metric, SMALL) for metric in drawn]
                title = f"{stage.name[:40]}: {group}"
                sheet = figures.small_multiples(title, self.subtitle, made)
                # A stage's name may be none for a file.
                name = f"curves-{number + 1}-{place + 1}"
                yield group, self.keep(name, sheet, f"Curves of stage {stage.name[:40]}: {group}")

    def _curve(self, stage: StageSummary, metric: str, points: int) -> Curve:
        return Curve.of(self.facts.run.name, stage.name, metric, courses(stage)[metric], points)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
