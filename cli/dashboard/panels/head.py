"""The head: which run, how it does, how far it is, and which stages there are."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from cli.dashboard.lines import ends, fit, line, words
from cli.dashboard.marks import bar, brief, percent, short_span
from cli.dashboard.scene import Scene, figure
from cli.output import span
from streamrec_dist.events import Event
from streamrec_dist.summary import SILENCE_S, StageSummary

HEIGHT = 3
SIGNS = {"done": "✓", "skipped": "✓", "started": "▶", "waiting": "·", "halted": "×"}
ASCII_SIGNS = {"done": "+", "skipped": "+", "started": ">", "waiting": ".", "halted": "x"}
STYLES = {"started": "title", "halted": "title", "done": "good", "skipped": "good"}
ENDS = {
    "done": ("done", "good"),
    "stopped": ("stopped", "warn"),
    "failed": ("failed", "bad"),
    "lost": ("died without a word", "bad"),
}
#: What a stage does before its first step.
FIRST = {
    "tokenize": "the texts of the items to be embedded",
    "sft": "the first thoughts to be found for the training rows",
    "rl": "the first rollouts to be sampled, scored and learned from",
}


def head(scene: Scene, width: int) -> list[Text]:
    """HEIGHT lines."""
    lines = [_run(scene, width), _progress(scene, width), _stages(scene, width)]
    return [fit(text, width) for text in lines]


def waits_for(scene: Scene) -> str:
    """What a run that has not made a step waits for."""
    stage, processes = scene.stage, scene.summary.processes
    if stage is None:
        return "its data to be read and its processes to be placed"
    starting = sum(row.get("state") == "starting" for row in processes)
    if starting:
        return f"{starting} of {len(processes)} processes to start"
    return FIRST.get(stage.name, "the first step of the learners")


def _run(scene: Scene, width: int) -> Text:
    summary = scene.summary
    since = summary.begun or summary.first
    up = span(scene.until - since) if since else ""
    if scene.ended:
        state, style = ENDS.get(scene.ended, (words(scene.ended, 20), "bad"))
        told = f"after {up}"
    elif not since:
        state, style, told = "starting", "mark", ""
    elif summary.paused:
        state, style, told = "paused,", "warn", f"up {up}"
    elif scene.silent > SILENCE_S:
        state, style, told = f"silent for {span(scene.silent)},", "warn", f"up {up}"
    else:
        state, style, told = "going,", "good", f"up {up}"
    name = line(("run ", "label"), (words(summary.run, 100), "title"))
    return ends(name, line((state, style), f" {told}" if told else ""), width)


def _progress(scene: Scene, width: int) -> Text:
    stage = scene.stage
    if stage and stage.annotation and not scene.ended:
        return _annotation(scene, stage, stage.annotation, width)
    if stage is None or not stage.step:
        name = f"{words(stage.name, 30)} " if stage else ""
        return line(
            (name, "title"), ("it had not begun" if scene.ended else f"waits for {waits_for(scene)}", "")
        )
    facts = list(_facts(scene, stage))
    start = line((f"{words(stage.name, 30)} ", "title"), _fold(scene, stage))
    if not stage.total:
        return start.append("  ".join([f"step {stage.step:,}", *facts]))
    return _bar(scene, start, f"{stage.step:,}/{stage.total:,}", stage.step / stage.total, facts, width)


def _fold(scene: Scene, stage: StageSummary) -> str:
    """Which of its trainings stage retrieve is at: steps and the time left are those of one."""
    if stage.name != "retrieve":
        return ""
    of = f" of {scene.config.stages.retrieve.folds}" if scene.config else ""
    return f"fold {stage.fold}{of} " if stage.fold else "all users "


def _bar(scene: Scene, start: Text, of: str, share: float, facts: list[str], width: int) -> Text:
    """`start`, a bar, and as many of the facts as there is room for."""
    while True:
        rest = "  ".join([f" {of}", percent(share), *facts])
        room = min(40, width - start.cell_len - len(rest))
        if room >= 8 or not facts:
            break
        # What stands last is missed least.
        facts.pop()
    return start.append(bar(share, max(4, room), scene.ascii_only), "mark").append(rest)


def _annotation(scene: Scene, stage: StageSummary, event: Event, width: int) -> Text:
    """Rows that have their thoughts, before the learners go on with them."""
    start = line((f"{words(stage.name, 30)} ", "title"))
    number, rate = figure(event.metrics.get("round")), figure(event.metrics.get("rows_per_s"))
    if number is not None:
        start.append(f"round {number:.0f} ")
    of = f"{event.step:,}/{event.total:,} rows annotated"
    facts = []
    if rate:
        left = max(0.0, (event.total - event.step) / rate - (scene.now - event.t))
        facts = [f"{short_span(left)} left", f"{brief(rate)} rows/s"]
    return _bar(scene, start, of, event.step / max(event.total, 1), facts, width)


def _facts(scene: Scene, stage: StageSummary) -> Iterator[str]:
    rate = stage.rate()
    if not scene.ended and (left := _seconds_left(scene, stage)) is not None:
        yield f"{short_span(left)} left"
    if (version := scene.value("version")) is not None:
        yield f"version {version:.0f}"
    if rate is not None:
        yield (
            f"{brief(rate)} steps/s"
            if rate >= 1
            else f"{short_span(1 / rate)} a step"
            if rate < 0.1
            else (f"{1 / rate:.1f} s a step")
        )


def _seconds_left(scene: Scene, stage: StageSummary) -> float | None:
    """In this stage, at the rate of its last steps, less what has passed since the last one."""
    left = None if scene.summary.paused or stage.state != "started" else stage.seconds_left()
    return None if left is None else max(0.0, left - (scene.now - stage.steps[-1][0]))


def _took(scene: Scene, stage: StageSummary) -> str:
    """How long a stage took, by its own clock once it is done, which stands still in a pause."""
    seconds = figure(stage.outcome.get("seconds")) if stage.state == "done" else None
    if seconds is None and stage.started:
        paused = scene.summary.paused and stage is scene.stage
        until = stage.ended or (scene.summary.paused_at if paused else scene.until)
        seconds = until - stage.started - stage.rested
    return "" if seconds is None else f" {short_span(seconds)}"


def _stages(scene: Scene, width: int) -> Text:
    planned = scene.summary.planned
    shown = [
        stage
        for stage in scene.summary.stages.values()
        if not planned or stage.state != "waiting" or stage.name in planned or stage.name in scene.taken
    ]
    parts = [_stage(scene, stage) for stage in shown]
    apart = 3 if sum(part.cell_len + 3 for part in parts) <= width + 3 else 2
    return Text(" " * apart).join(parts)


def _stage(scene: Scene, stage: StageSummary) -> Text:
    """Its name with a sign, and how long it took."""
    state = "skipped" if stage.state == "waiting" and stage.name in scene.taken else stage.state
    state = "halted" if state == "started" and scene.ended else state
    style = "chosen" if stage.name == scene.at else STYLES.get(state, "label")
    sign = (ASCII_SIGNS if scene.ascii_only else SIGNS).get(state, "?")
    return line((f"{sign} {words(stage.name, 30)}", style), (_took(scene, stage), "label"))
