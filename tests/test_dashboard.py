"""The live view without a terminal: what is drawn of a run, at any size, whatever its events say."""

from __future__ import annotations

import io
import math
import os
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from benchmarks.scenes import SCENES, config, rl_step
from cli.dashboard.chart import area, chart
from cli.dashboard.keyboard import keys
from cli.dashboard.lines import (
    COLOURLESS,
    PALETTE,
    SIXTEEN,
    ansi,
    fit,
    folded,
    left,
    line,
    palette,
    right,
    words,
)
from cli.dashboard.marks import bar, brief, number, percent, short_span, sparkline, trend
from cli.dashboard.pages import RewardPage, RunPage
from cli.dashboard.painter import Painter
from cli.dashboard.panels import evaluation, head, policy, rewards
from cli.dashboard.plain import line as plain_line
from cli.dashboard.scene import Scene
from cli.output import clean
from streamrec_dist.course import Course
from streamrec_dist.events import Event
from streamrec_dist.rl.ledger import Mark
from streamrec_dist.rundir import RunDir
from streamrec_dist.summary import RunSummary
from streamrec_dist.types import REWARDS
from tests.conftest import run_cli
from tests.drawn import pages, scene_of, screen


def run_of(*events: Event) -> RunSummary:
    return RunSummary("demo").apply_all(events)


def summary_of(scene: str) -> tuple[RunSummary, float]:
    """What the events of a scene come down to, and when it is looked at."""
    events, later = SCENES[scene]
    summary = RunSummary("demo").apply_all(events())
    return summary, summary.last + later


# every screen, at every size


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("scene", SCENES)
def test_every_page_fills_a_screen_of_any_size_and_no_more(scene: str, ascii_only: bool) -> None:
    summary, now = summary_of(scene)
    drawn = scene_of(summary, now, config(), ascii_only=ascii_only)
    for width, height in ((80, 23), (120, 39), (200, 60), (76, 23), (75, 50), (40, 10), (20, 3), (100, 4)):
        for page in pages():
            rows = screen(drawn, width, height, page).split("\n")
            assert {cell_len(row) for row in rows} == {width}, (width, height, page)
    if ascii_only and scene != "hostile":
        assert screen(drawn).replace("…", "").isascii()


def test_the_smallest_usual_terminal_has_everything_of_stage_3() -> None:
    summary, now = summary_of("healthy")
    text = screen(scene_of(summary, now, config()), 80, 23)
    for word in (
        *(
            "run demo",
            "going, up 16 min 11 s",
            "180/400",
            "45 %",
            "version 180",
            "5m29s left",
            "1.5 s a step",
        ),
        *(*REWARDS, "total", "weight", "spread", "share", "62 %"),
        *("KL to start", "x.001", "≤5.55", "<30 %", "1±.2", "≤1", "≤1e-5"),
        *("rollouts 680/s", "tokens 6.8k/s", "groups 40.7/s", "no signal 4/64", "learners 12% actors 7%"),
        *("step 1.50 s", "0:34% 1:47% 2:19%", "waiting 24 of 192", "weights 1s old (0.02s)"),
        *("NDCG@10   .0449", "Recall@10 .0853", "since SFT +.0018", "best .0451@100", "invalid 0%"),
        *("evaluate 1", "learners 1 v180", "reward 0", "rollout 3  v179  2.67/s   418M"),
    ):
        assert word in text, word


def test_what_a_stage_does_not_measure_has_no_panel() -> None:
    """Of older runs, whose steps lack some measures, the others are shown."""
    old = {"reward/total": 0.3, "kl": 0.01, "entropy": 3.0, "staleness": 0.8, "rollouts_per_s": 100.0}
    summary = run_of(Event("step", "rl", 1, 9, metrics=old, t=5), Event("step", "rl", 2, 9, metrics=old, t=6))
    text = screen(scene_of(summary, 7))
    assert "workers" not in text and "evaluation" not in text
    assert "0.8 versions behind" in text and "groups -" in text and re.search(r"2 format +- ", text)
    assert "rewards" not in screen(scene_of(run_of(Event("stage", "rl", state="started", t=1)), 2))


def test_a_run_that_has_not_begun_says_what_it_waits_for() -> None:
    assert "waits for its data" in screen(scene_of(run_of(), 5))
    started = Event("stage", "rl", state="started", t=1)
    assert "waits for the first rollouts" in screen(scene_of(run_of(started), 5))
    rows = [{"role": "rollout", "number": 0, "state": state} for state in ("starting", "ready")]
    told = run_of(started, Event("workers", "rl", metrics={"processes": rows}, t=2))
    assert "waits for 1 of 2 processes to start" in screen(scene_of(told, 5))


@pytest.mark.parametrize(
    ("events", "now", "said"),
    [
        ((), 160.0, "going, up 1 min 00 s"),
        ((), 190.0, "silent for 1 min 20 s"),
        ((Event("run", state="paused", t=120),), 130.0, "paused, up 30 s"),
        ((Event("run", state="stopped", t=130),), 900.0, "stopped after 30 s"),
        ((Event("run", state="failed", message="why", t=130),), 900.0, "failed after 30 s"),
    ],
)
def test_the_state_of_a_run_in_its_head(events: tuple[Event, ...], now: float, said: str) -> None:
    summary = run_of(
        Event("run", state="started", t=100), Event("step", "rl", 1, 9, metrics={}, t=110), *events
    )
    assert said in head.head(scene_of(summary, now), 80)[0].plain
    assert "died without a word" in head.head(scene_of(run_of(), 5, lost=True), 80)[0].plain


def test_a_run_started_again_is_as_old_as_its_last_start() -> None:
    """The time in which nobody worked on it is none in which it was up."""
    summary = run_of(
        Event("run", state="started", t=100),
        Event("run", state="stopped", t=200),
        Event("run", state="started", t=5000),
        Event("step", "rl", 5, 9, metrics={}, t=5010),
    )
    assert "going, up 20 s" in head.head(scene_of(summary, 5020), 80)[0].plain


def test_time_left_goes_down_while_a_step_takes_its_time() -> None:
    steps = [Event("step", "rl", step, 30, metrics={}, t=100 + 10 * step) for step in range(1, 11)]
    first, later = (head.head(scene_of(run_of(*steps), now), 80)[1].plain for now in (200, 205))
    assert "3m20s left" in first and "3m15s left" in later
    paused = run_of(*steps, Event("run", state="paused", t=201))
    assert "left" not in head.head(scene_of(paused, 205), 80)[1].plain


def test_other_stages_can_be_looked_at() -> None:
    summary, now = summary_of("healthy")
    scene = scene_of(summary, now, config())
    assert scene.beside(1) == "" and scene.beside(-1) == "sft"
    before = replace(scene, at="sft")
    text = screen(before, 80, 23)
    assert "50/50" in text and "log-loss" in text and "rewards" not in text
    assert replace(before, at="nothing").stage is scene.stage
    assert (
        before.beside(1) == ""
        and before.beside(-1) == "pretrain"
        and replace(scene, at="retrieve").beside(-9)
    )


def test_an_annotation_is_followed_until_the_learners_go_on() -> None:
    began = Event("stage", "sft", state="started", t=100)
    steps = [Event("step", "sft", 7, 90, metrics={}, t=101)]
    first = Event("annotate", "sft", 0, 4000, metrics={"round": 2}, t=110)
    second = Event("annotate", "sft", 1000, 4000, metrics={"round": 2, "rows_per_s": 100.0}, t=120)

    def told(*events: Event, now: float = 120) -> str:
        return head.head(scene_of(run_of(began, *steps, *events), now), 100)[1].plain

    assert told(first).startswith("sft round 2 ") and "0/4,000 rows annotated  0 %" in told(first)
    assert "1,000/4,000 rows annotated  25 %  30s left  100 rows/s" in told(first, second)
    assert "20s left" in told(first, second, now=130)
    for event in (
        Event("step", "sft", 8, 90, metrics={}, t=150),
        Event("eval", "sft", 90, metrics={"ndcg@10": 0.1}, t=150),
        Event("stage", "sft", state="done", t=150),
        Event("run", state="failed", t=150),
    ):
        assert "annotated" not in told(first, second, event)
    restored = RunSummary.unpacked(run_of(began, first, second).packed())
    assert restored.stages["sft"].annotation == second


# the rewards that do not do their part


def rl_run(steps: int, **metrics: float) -> RunSummary:
    return run_of(*(Event("step", "rl", step, 99, metrics=metrics, t=step) for step in range(1, steps + 1)))


def test_a_term_that_tells_nothing_apart_is_dead() -> None:
    total = {"spread/total": 0.3, "reward/total": 1.0}
    alive = rl_run(20, **total, **{"spread/ranking": 0.1})
    assert rewards.mark(scene_of(alive, 30), "ranking") is Mark.ok
    alive.apply_all(
        Event("step", "rl", step, 99, metrics=total | {"spread/ranking": 1e-8}) for step in range(21, 30)
    )
    assert rewards.mark(scene_of(alive, 30), "ranking") is Mark.ok, "one step in ten had a difference"
    alive.apply(Event("step", "rl", 30, 99, metrics=total | {"spread/ranking": 0.0}))
    dead = scene_of(alive, 30)
    assert rewards.mark(dead, "ranking") is Mark.dead
    assert "reward ranking is dead: less than 1 % of what" in screen(dead, 120, 39)
    assert re.search(r"6 ranking .* dead", screen(dead, 80, 23))
    nothing = scene_of(rl_run(9, **{"spread/total": 0.0, "reward/total": 1.0}), 30)
    assert rewards.faults(nothing) == ["the total reward is dead: the same for all rollouts of a prompt"]


def test_a_term_is_as_dead_in_a_long_run_as_in_a_short_one() -> None:
    total = {"spread/total": 0.3, "reward/total": 1.0}
    long = rl_run(20_000, **total, **{"spread/ranking": 0.1})
    long.apply_all(
        Event("step", "rl", step, 99, metrics=total | {"spread/ranking": 0.0})
        for step in range(20_001, 20_011)
    )
    assert rewards.mark(scene_of(long, 30), "ranking") is Mark.dead
    assert scene_of(long, 30).mean("spread/ranking") == 0.0


def test_a_term_that_all_meet_is_not_dead() -> None:
    """On the trie every rollout names an item."""
    for reward, expected in ((0.0, Mark.met), (-1.0, Mark.dead)):
        run = rl_run(
            9, **{"spread/total": 0.3, "reward/total": 1.0, "spread/format": 0.0, "reward/format": reward}
        )
        assert rewards.mark(scene_of(run, 30), "format") is expected
        assert ("dead" in screen(scene_of(run, 30), 120, 39)) == (expected is Mark.dead)
    assert re.search(
        r"2 format .* met",
        screen(
            scene_of(
                rl_run(9, **{"reward/total": 1, "spread/total": 1, "spread/format": 0, "reward/format": 0}),
                30,
            )
        ),
    )


def test_a_term_that_makes_up_most_of_the_advantage_dominates() -> None:
    shares = {"spread/ranking": 0.1, "reward/total": 1.0, "spread/total": 0.3, "entropy": 1.0}
    assert rewards.mark(scene_of(rl_run(5, **shares, **{"share/ranking": 0.79}), 9), "ranking") is Mark.ok
    assert rewards.mark(scene_of(rl_run(4, **shares, **{"share/ranking": 0.81}), 9), "ranking") is Mark.ok
    scene = scene_of(rl_run(5, **shares, **{"share/ranking": 0.81}), 9)
    assert rewards.mark(scene, "ranking") is Mark.dominates
    assert "81 %!" in screen(scene, 80, 23) and "more than 80 % of the advantage" in screen(scene, 120, 39)


def test_a_term_of_no_weight_is_off_and_not_dead() -> None:
    given = config()
    weights = given.stages.rl.rewards.model_copy(update={"format": 0.0})
    rl = given.stages.rl.model_copy(update={"rewards": weights})
    given = given.model_copy(update={"stages": given.stages.model_copy(update={"rl": rl})})
    scene = scene_of(
        rl_run(20, **{"spread/format": 0.0, "reward/total": 1.0, "spread/total": 1.0}), 30, given
    )
    assert rewards.mark(scene, "format") is Mark.off and not rewards.faults(scene)


def test_numbers_keep_their_exponent_where_there_is_little_room() -> None:
    tiny = {
        "reward/total": -5.1e-5,
        "spread/total": 1e-9,
        "reward/ranking": -3.2e-10,
        "kl": -1.2e-9,
        "entropy": 1.0,
    }
    shown = screen(scene_of(rl_run(9, **tiny), 30))
    assert "-5e-05" in shown and "-3e-10" in shown and "-1e-09" in shown
    assert not re.search(r"e-?\d*…", shown)


def test_a_run_that_falls_apart_is_told_of() -> None:
    step = {"entropy": 2.0, "kl": 3.1, "clip_share": 0.1, "ratio": 1.0, "grad_norm": 1.5, "spread/total": 1.0}
    healthy = run_of(*(Event("step", "rl", n, 99, metrics=step, t=n) for n in range(1, 9)))
    assert "nothing out of the ordinary" in screen(scene_of(healthy, 9), 120, 39), (
        "gradients are clipped now and then"
    )
    healthy.apply(Event("step", "rl", 9, 99, metrics=step | {"grad_norm": 4.1e14, "ratio": 3.0}, t=9))
    fallen = {"ndcg@10": 0.2, "ndcg@10_change": -0.3, "ndcg@10_change_ci": [-0.34, -0.26]}
    healthy.apply(Event("eval", "rl", 9, metrics=fallen, t=9))
    text = screen(scene_of(healthy, 10), 120, 39)
    assert "validation NDCG@10 has fallen below that of SFT: -.3400 to -.2600" in text
    assert (
        "gradient is far beyond its limit: 4.1e+14 (≤1)" in text and "ratio is far beyond its limit" in text
    )
    healthy.apply(Event("eval", "rl", 9, metrics=fallen | {"ndcg@10_change_ci": [-0.3, 0.001]}, t=9))
    assert "has fallen" not in screen(scene_of(healthy, 10), 120, 39)


def test_processes_that_find_no_room_are_told_of() -> None:
    rows = [{"role": "rollout", "number": 0, "state": "starting"}]
    told = run_of(
        Event("stage", "rl", state="started", t=100),
        Event("workers", "rl", metrics={"processes": rows}, t=101),
    )
    assert "room" not in screen(scene_of(told, 110), 120, 39)
    assert "1 processes have been waited for since 59 s: is there room" in screen(
        scene_of(told, 159), 120, 39
    )


def test_a_pause_is_none_of_the_time_of_a_stage() -> None:
    events = [
        Event("stage", "rl", state="started", t=100),
        Event("step", "rl", 1, 9, metrics={}, t=110),
        Event("run", "rl", state="paused", t=120),
    ]
    assert "rl 20s" in head.head(scene_of(run_of(*events), 170), 80)[2].plain
    events.append(Event("run", "rl", state="resumed", t=180))
    assert "rl 30s" in head.head(scene_of(run_of(*events), 190), 80)[2].plain
    events.append(Event("stage", "rl", state="done", metrics={"seconds": 24.6}, t=195))
    assert "rl 25s" in head.head(scene_of(run_of(*events), 200), 80)[2].plain


def test_what_is_seldom_measured_is_none_of_every_step() -> None:
    """An evaluation is waited for beside the work, and what a part took in one step is spread over those before."""
    events = [
        Event(
            "step",
            "rl",
            step,
            99,
            t=step,
            metrics={"seconds": 1.5, "rollouts_per_s": 9.0, "time/generate": 1.0},
        )
        for step in range(1, 41)
    ]
    events[34].metrics.update({"time/evaluate": 30.0, "time/publish": 2.0})
    events[2].metrics["time/score"] = 50.0
    scene = scene_of(run_of(*events), 41)
    assert scene.each_step("time/publish") == pytest.approx(0.2) and scene.each_step("time/score") == 0
    text = screen(scene, 120, 39)
    assert (
        "evaluate" not in text
        and re.search(r"sample .* 83 % +1.00 s", text)
        and re.search(r"publish .* 17 %", text)
    )


# limits, and what is compared


def test_measures_of_the_policy_beside_what_the_run_was_told() -> None:
    summary = rl_run(1, ratio=1.3, grad_norm=1.5, clip_share=0.4, entropy=2.0, kl=0.1, lr=1e-6)
    rows = policy.PANEL.draw(scene_of(summary, 2, config()), 43, 6)
    wrong = [row.plain[:12].strip() for row in rows if any(str(span.style) == "bad" for span in row.spans)]
    assert wrong == ["clipped", "ratio", "gradient"]
    assert f"≤{math.log(256):.3g}" in rows[1].plain and rows[1].plain.count("━") == round(
        2 / math.log(256) * 13
    )


def test_without_its_configuration_a_run_is_shown_without_limits() -> None:
    summary, now = summary_of("healthy")
    text = screen(Scene(summary, now), 80, 23)
    assert "KL to start  0.0729" in text and "≤" not in text and "waiting 24 " in text


def test_the_change_is_against_what_rl_began_with() -> None:
    def since(*events: Event, taken: float | None = None, width: int = 60) -> str:
        drawn = evaluation.PANEL.draw(scene_of(run_of(*events), 9, taken_ndcg=taken), width, 6)
        return " ".join(row.plain for row in drawn)

    def rl(step: int, ndcg: float) -> Event:
        return Event("eval", "rl", step, metrics={"ndcg@10": ndcg}, t=2)

    step = Event("step", "rl", 50, 100, metrics={"kl": 0.1}, t=1)
    sft = Event("stage", "sft", state="done", metrics={"ndcg@10": 0.03}, t=1)
    assert "since SFT +.0200  best" in since(step, rl(0, 0.02), rl(50, 0.04))
    paired = {"ndcg@10": 0.04, "ndcg@10_change": 0.019, "ndcg@10_change_ci": [-0.001, 0.03]}
    known = Event("eval", "rl", 50, metrics=paired, t=2)
    assert "since SFT +.0190 [-.0010 +.0300]" in since(step, known)
    assert "since SFT +.0190 ±.0155 best" in since(step, known, width=26)
    assert "since SFT +.0100" in since(sft, step, rl(50, 0.04)), "of a run that was resumed without step 0"
    assert "since SFT +.0150" in since(step, rl(50, 0.04), taken=0.025), "SFT is another run's"
    assert "since SFT -" in since(step, rl(50, 0.04))
    assert "best .0400@50" in since(step, rl(0, 0.02), rl(50, 0.04), rl(100, 0.04))


# drawing only what changed


def test_panels_are_drawn_anew_only_for_their_events() -> None:
    summary, now = summary_of("healthy")
    counts: Counter[str] = Counter()
    page = RunPage(counts)

    def drawn() -> dict[str, int]:
        page.rows(scene_of(summary, now, config()), 120, 39, {})
        return {name: id(lines) for name, (_, lines) in page.drawn.items()}

    def changed(before: dict[str, int]) -> set[str]:
        after = drawn()
        return {name for name in after if after[name] != before[name]}

    before = drawn()
    assert changed(before) == set()
    summary.apply(rl_step(181))
    counts["step"] += 1
    assert {"rewards", "policy", "throughput", "staleness", "course"} <= changed(before)
    assert not changed(before) & {"workers", "evaluation", "quality"}
    before = drawn()
    now += 1.0
    assert changed(before) == {"staleness", "workers"}


def test_only_lines_that_changed_are_written() -> None:
    reader, writer = os.pipe()
    painter = Painter(writer, "utf-8")

    def written(*rows: str) -> str:
        painter.show(rows)
        os.write(writer, b"\0")
        return os.read(reader, 65536).decode().removesuffix("\0")

    assert written("one", "two", "three").count("\x1b[") == 2 + 1 + 3
    assert written("one", "two", "three") == ""
    assert written("one", "2", "three") == "\x1b[?2026h\x1b[2;1H2\x1b[?2026l"
    # Terminals do not agree about how wide these are: what was there is cleared first.
    assert "\x1b[3;1H\x1b[2K東👩" in written("one", "2", "東👩")
    assert "\x1b[3;1H\x1b[2Kend" in written("one", "2", "end")
    assert written("one", "2").startswith("\x1b[?2026h\x1b[2J")
    painter.forget()
    assert written("one", "2").count("one") == 1
    os.close(reader), os.close(writer)


# text


def test_colours_stand_out_from_white_and_from_black() -> None:
    """At least 3 to 1, which is what WCAG asks of large or bold text and of pictures."""
    for style, code in PALETTE.items():
        if match := re.search(r"38;5;(\d+)", code):
            light = luminance(int(match[1]))
            assert 1.05 / (light + 0.05) >= 3 and (light + 0.05) / 0.05 >= 3, style
    assert not re.search("33|37|38|9[0-7]|;2;", " ".join(SIXTEEN.values())), (
        "yellow and white vanish on white"
    )


def luminance(colour: int) -> float:
    """Of a colour of the 256, as WCAG defines it."""
    if colour >= 232:
        parts = [8 + 10 * (colour - 232)] * 3
    else:
        parts = [(0, 95, 135, 175, 215, 255)[(colour - 16) // place % 6] for place in (36, 6, 1)]
    linear = [((part / 255 + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_what_a_terminal_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def console(**options: object) -> Console:
        return Console(file=io.StringIO(), force_terminal=True, **options)  # type: ignore[arg-type]

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert palette(console(color_system="256")) is PALETTE
    assert palette(console(color_system="standard")) is SIXTEEN
    assert palette(console(color_system=None)) is COLOURLESS
    monkeypatch.setenv("NO_COLOR", "1")
    assert palette(console(color_system="256")) is COLOURLESS


def test_lines_are_cut_and_filled_by_cells() -> None:
    assert (left("ab", 4), right("ab", 4), left("abcdef", 4), right("abcdef", 4)) == (
        "ab  ",
        "  ab",
        "abc…",
        "abc…",
    )
    assert (left("東京の", 5), right("東京", 6), left("x", 0)) == ("東京…", "  東京", "")
    assert cell_len(fit(line("東京の本", ("屋", "bad")), 7).plain) == 7
    assert ansi(line("a", ("b", "bad"), ("c", "none")), {"bad": "31"}) == "a\x1b[31mb\x1b[mc"
    assert folded("one two three four", 9, 2) == ["one two", "three fo…"]
    assert folded("word " * 50, 20, 3)[2].endswith("…") and folded("", 9, 2) == []


def test_text_of_others_can_do_nothing_to_a_terminal() -> None:
    assert (
        clean("a\x1b[31m\x07\x9b\r\u202eb\u2066\u200d") == "a\ufffd[31m\ufffd\ufffd\ufffd\ufffdb\ufffd\ufffd"
    )
    assert clean("z" + "\u0351" * 9 + "e\u0301") == "z\u0351\u0351\u0351e\u0301", (
        "marks that reach into other lines"
    )
    assert clean("☎\ufe0f\udcff") == "☎\ufffd"
    assert words(" a\n\tb ") == "a b" and len(words("x" * 10**7)) < 3000
    picture = screen(scene_of(summary_of("hostile")[0], 2e9), 120, 39)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200d]", picture)


# pictures made of characters


def test_marks() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"
    assert sparkline([1, math.nan, 1], 8) == "▅▅"
    assert sparkline([], 8) == ""
    assert sparkline([0.1, 0.1 + 1e-17, 0.1 - 1e-17], 3) == "▅▅▅"
    assert bar(0.5, 4, ascii_only=True) == "##--"
    assert bar(7, 2, ascii_only=True) == "##"
    assert [number(value) for value in (None, 3, 0.12345, 12.345, 1234.5, 1e-5, math.inf)] == [
        *("-", "3", "0.1235", "12.35", "1234", "1.0e-05", "-")
    ]
    found = [brief(value) for value in (3.14159, 64000.0, 999.96, 1e6, 123456, 1e-5, -2500, 1e15)]
    assert found == ["3.14", "64k", "1k", "1M", "123k", "1e-05", "-2.5k", "1e+15"]
    assert (percent(0.123), percent(-0.001), percent(None)) == ("12 %", "0 %", "-")
    assert [short_span(value) for value in (0.4, 59.6, 3599, 7300, 200_000)] == [
        *("0s", "1m00s", "59m59s", "2h01m", "2d07h")
    ]


def test_trends_are_no_noise() -> None:
    draw = random.Random(1)
    noise = np.array([draw.gauss(0, 1) for _ in range(200)])
    rise = np.arange(200) / 50
    assert (trend(noise), trend(noise + rise), trend(noise - rise)) == ("→", "↗", "↘")
    assert trend(np.ones(100)) == "→" and trend(rise[:10]) == ""
    assert trend(noise + rise, ascii_only=True) == "/"


def test_a_chart_has_its_course_between_its_axes() -> None:
    course = Course()
    for step in range(1, 301):
        course.add(step, step / 100)
    rows = [row.plain for row in chart(course, 71, 12)]
    assert len(rows) == 12 and {len(row) for row in rows[:-1]} == {71}
    assert rows[0].startswith("         3┤") and rows[9].startswith("    0.0100┤")
    assert rows[-1].split() == ["1", "151", "step", "300"]
    columns = [[row[11 + place] for row in rows[:10]].index("●") for place in range(60)]
    assert columns == sorted(columns, reverse=True) and columns[0] == 9 and columns[-1] == 0
    filled = [row.plain[11:] for row in area(course, 71, 12)][:10]
    heights = [sum(" ▁▂▃▄▅▆▇█".index(row[place]) for row in filled) for place in range(60)]
    assert heights == sorted(heights) and heights[-1] == 80 and heights[0] == 1
    flat = Course()
    flat.add(5, 2.0)
    for draw in (chart, area):
        assert any("●" in row.plain or "█" in row.plain for row in draw(flat, 40, 8))
        assert [row.plain for row in draw(Course(), 40, 8)] == ["nothing measured yet"]


def test_a_reward_enlarged_tells_its_range() -> None:
    summary = run_of(
        *(Event("step", "rl", step, 9, metrics={"reward/ranking": step / 10}, t=step) for step in range(1, 6))
    )
    text = screen(scene_of(summary, 9, config()), 80, 23, RewardPage("ranking"))
    assert "newest 0.5000  lowest 0.1000  highest 0.5000" in text and "weight 1" in text


# keys


@pytest.mark.parametrize(
    ("typed", "pressed"),
    [
        ("q", ["q"]),
        ("\x1b", ["escape"]),
        ("\x1b[A\x1bOB\r", ["up", "down", "enter"]),
        ("\x1b[6~1", ["page down", "1"]),
        # Keys that mean nothing here must not be taken for the letters in them.
        ("\x1b[15~\x1b[1;5Cs", ["s"]),
        ("\x1b\x1b", ["escape", "escape"]),
        ("é", ["é"]),
    ],
)
def test_keys_by_name(typed: str, pressed: list[str]) -> None:
    assert keys(typed) == pressed


# events, reduced and in lines


def test_steps_that_start_over_do_not_make_a_negative_rate() -> None:
    steps = [Event("step", "rl", step, 9, t=t) for step, t in ((5, 1), (6, 2), (4, 10), (5, 12))]
    assert run_of(*steps).stages["rl"].rate() == pytest.approx(0.5)


def test_a_pause_is_no_slow_step() -> None:
    paused = [Event("run", state="paused", t=3), Event("run", state="resumed", t=900)]
    steps = [Event("step", "rl", step, 9, t=t) for step, t in ((1, 1), (2, 2), (3, 901))]
    assert run_of(*steps[:2], *paused, steps[2]).stages["rl"].rate() is None


def test_plain_lines() -> None:
    rl = rl_step(3)
    assert re.match(r"rl 3/400 total [\d.-]+ format [\d.-]+ exact_match", plain_line(rl))
    assert plain_line(Event("round", "sft", 2, metrics={"leak": 2.5, "distance": [0.5, 0.25]})) == (
        "sft round 2 leak 2.5000 distance [0.5000 0.2500]"
    )
    assert plain_line(Event("run", state="failed", message="one\ntwo")) == "run failed: one two"
    assert "\x1b" not in plain_line(Event("step", "x\x1b[31m", 1, 0, metrics={"\x1b[5m": 1.0}))
    for kind in ("step", "eval", "stage", "annotate"):
        told = plain_line(Event(kind, "x\nrun done: all is well", 1, metrics={"a\nb": 1.0, "round": 1}))
        assert "\n" not in told and "x run done" in told


@pytest.mark.parametrize(("end", "code"), [("done", 0), ("stopped", 0), ("failed", 1)])
def test_an_ended_run_can_be_watched_again(tmp_path: Path, end: str, code: int) -> None:
    (tmp_path / "cluster.yaml").write_text("seed: 1\n", encoding="utf-8")
    run = RunDir.create(tmp_path / "runs", "demo", config())
    ending = [
        rl_step(1),
        Event("workers", "rl", metrics={"processes": []}),
        Event("run", state=end, message="why"),
    ]
    run.events_path.write_text("".join(f"{event.to_json()}\n" for event in ending), encoding="utf-8")
    watched = run_cli("watch", "--plain", cwd=tmp_path)
    assert watched.returncode == code
    # The time of day comes first; the state of processes is nothing for a line.
    first, last = watched.stdout.splitlines()
    assert first[9:].startswith("rl 1/400 total") and last[9:] == f"run {end}: why"
    assert "demo" in watched.stderr
