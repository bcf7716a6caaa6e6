"""The summary of a run: what its events come down to, whatever their number, kept and restored."""

from __future__ import annotations

import msgpack
import pytest

from streamrec_dist.errors import DataError
from streamrec_dist.events import Event
from streamrec_dist.summary import EVALUATIONS, METRICS, WARNINGS, RunSummary


def a_run(steps: int = 50) -> list[Event]:
    events = [Event("run", state="started", t=1.0), Event("stage", "rl", state="started", total=steps, t=2.0)]
    for step in range(1, steps + 1):
        metrics = {"reward/total": step / 10, "staleness": 1, "used": [1, 2], "name": "x", "nothing": None}
        events.append(Event("step", "rl", step=step, total=steps, metrics=metrics, t=2.0 + step / 4))
        if step % 10 == 0:
            events.append(
                Event(
                    "eval", "rl", step=step, split="valid", metrics={"ndcg@10": step / 1000}, t=2.0 + step / 4
                )
            )
    return events


def test_events_come_down_to_where_a_run_is() -> None:
    summary = RunSummary("one").apply_all([*a_run(), Event("warning", message="an actor died", t=20.0)])
    stage = summary.current()
    assert stage is not None and (stage.name, stage.step, stage.total) == ("rl", 50, 50)
    assert stage.rate() == pytest.approx(4) and stage.seconds_left() == 0
    assert set(stage.courses) == {"reward/total", "staleness"}
    assert stage.courses["reward/total"].means()[[0, -1]].tolist() == [0.1, 5.0]
    assert stage.evaluation is not None and stage.evaluation.step == 50
    assert stage.evaluated["ndcg@10"].steps().tolist() == [10, 20, 30, 40, 50]
    assert (summary.lives, summary.warned, summary.ended) == (1, 1, "")


def test_an_end_counts_until_the_run_goes_on() -> None:
    summary = RunSummary("one").apply_all([*a_run(), Event("run", state="failed", message="why", t=30.0)])
    assert (summary.ended, summary.message) == ("failed", "why")
    summary.apply(Event("run", state="started", t=40.0))
    assert (summary.ended, summary.lives) == ("", 2)
    assert summary.stages["rl"].rate() is None, "the time between is not part of the rate"


def test_steps_that_are_made_again_take_the_place_of_all_that_came_of_them() -> None:
    def step(number: int, behind: list[int]) -> Event:
        return Event(
            "step", "rl", number, 200, metrics={"staleness_counts": behind, "kl": number / 100}, t=number
        )

    def evaluated(number: int, value: float) -> Event:
        return Event("eval", "rl", number, metrics={"ndcg@10": value}, t=number)

    summary = RunSummary("one").apply_all(step(number, [4, 4]) for number in range(1, 101))
    summary.apply(evaluated(100, 0.05))
    summary.apply_all(step(number, [8]) for number in range(101, 151))
    summary.apply(evaluated(150, 0.06))
    stage = summary.stages["rl"]
    assert stage.staleness == [100 * 4 + 50 * 8, 100 * 4]
    summary.apply(step(101, [0, 0, 8]))
    assert stage.staleness == [400, 400, 8] and stage.latest[-1][0] == 101 and len(stage.latest) == 1
    assert [event.step for event in stage.evaluations] == [100]
    assert stage.evaluated["ndcg@10"].steps().tolist() == [100]
    summary.apply_all([Event("round", "sft", number, metrics={"leak": number}) for number in (0, 1, 2, 1)])
    assert [event.step for event in summary.stages["sft"].rounds] == [0, 1]
    assert RunSummary.unpacked(summary.packed()) == summary


def test_folds_have_curves_of_their_own() -> None:
    def steps(fold: int, count: int) -> list[Event]:
        about = {"fold": fold} if fold else {}
        return [
            Event("step", "retrieve", n, 40, metrics={"loss": fold + n / 100, **about})
            for n in range(1, count)
        ]

    summary = RunSummary("one").apply_all(steps(0, 31))
    stage = summary.stages["retrieve"]
    summary.apply(Event("eval", "retrieve", 30, metrics={"ndcg@10": 0.1}))
    summary.apply_all([*steps(1, 21), *steps(2, 11), *steps(2, 6)])
    counts = {name: len(course.buckets) for name, course in stage.courses.items() if "loss" in name}
    assert counts == {"loss": 30, "fold-1/loss": 20, "fold-2/loss": 5}
    assert (stage.fold, stage.prefix, stage.step, len(stage.evaluations)) == (2, "fold-2/", 5, 1)
    assert RunSummary.unpacked(summary.packed()) == summary


def test_what_a_stage_came_to_is_none_of_its_steps() -> None:
    summary = RunSummary("one")
    summary.apply(Event("step", "rl", 1, 9, metrics={"seconds": 0.3, "kl": 0.1}))
    summary.apply(Event("step", "rl", 2, 9, metrics={"seconds": 0.4}))
    assert summary.stages["rl"].metrics == {"seconds": 0.4}, "that step had no kl"
    summary.apply(Event("stage", "rl", state="done", metrics={"seconds": 600.0}))
    assert summary.stages["rl"].metrics["seconds"] == 0.4 and summary.stages["rl"].outcome["seconds"] == 600


def test_who_starts_a_run_works_on_no_stage_of_before() -> None:
    summary = RunSummary("one").apply_all(
        [
            Event("run", state="started", t=1.0),
            Event("stage", "rl", state="started", t=2.0),
            Event(
                "workers",
                "rl",
                metrics={"processes": [{"role": "reward", "state": "ready", "rate": 2.5}]},
                t=3.0,
            ),
            Event("step", "rl", 1, 9, t=4.0),
            Event("run", state="failed", t=5.0),
        ]
    )
    assert [(row["state"], row["rate"]) for row in summary.processes] == [("ended", None)]
    summary.apply_all(
        [Event("run", state="started", t=900.0), Event("stage", "sasrec", state="started", t=901.0)]
    )
    rl = summary.stages["rl"]
    assert (rl.state, rl.ended) == ("halted", 5.0) and summary.stages["sasrec"].state == "started"
    summary.apply(Event("stage", "rl", state="started", t=950.0))
    assert (rl.state, rl.started, rl.ended) == ("started", 950.0, 0.0)


def test_an_annotation_is_no_slow_step() -> None:
    steps = [Event("step", "sft", number, 99, t=float(number)) for number in range(1, 31)]
    summary = RunSummary("one").apply_all(steps)
    assert summary.stages["sft"].rate() == pytest.approx(1)
    summary.apply(Event("annotate", "sft", 0, 4000, t=31.0))
    summary.apply_all(Event("step", "sft", number, 99, t=600.0 + number) for number in (31, 32))
    assert summary.stages["sft"].rate() == pytest.approx(1)


def test_what_a_run_is_made_with_is_that_of_its_last_start() -> None:
    summary = RunSummary("one")
    for version in ("2.8", "2.9"):
        about = {"torch": version, "CPUs": 2, "long": "x" * 5000}
        summary.apply(Event("run", state="started", metrics={"environment": about}))
    assert summary.environment == {"torch": "2.9", "CPUs": "2", "long": "x" * 500}
    assert RunSummary.unpacked(summary.packed()) == summary
    summary.apply(Event("run", state="started", metrics={"environment": ["no", "names"]}))
    assert summary.environment == {}


def test_what_is_kept_is_bounded() -> None:
    summary = RunSummary("one")
    for number in range(3 * EVALUATIONS):
        summary.apply(Event("eval", f"stage{number}", step=number, metrics={"a": 1.0}))
        summary.apply(Event("eval", "rl", step=number, metrics={f"m{number}": 1.0}))
        summary.apply(Event("warning", message=str(number)))
    assert len(summary.stages) == 50 and len(summary.stages["rl"].evaluated) == METRICS
    assert len(summary.stages["rl"].evaluations) == EVALUATIONS and len(summary.warnings) == WARNINGS
    assert summary.warned == 3 * EVALUATIONS


def test_a_summary_that_is_restored_goes_on_as_if_it_had_not_been() -> None:
    events = a_run(5000)
    whole = RunSummary("one").apply_all(events)
    restored = RunSummary.unpacked(RunSummary("one").apply_all(events[:3000]).packed())
    assert restored.apply_all(events[3000:]) == whole
    assert len(whole.packed()) < 200_000


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"first": -1.0}, "first: Input should be greater"),
        ({"warned": "many"}, "warned: Input should be a valid integer"),
        ({"stages": {"rl": {"name": "rl", "courses": {"a": b"12345678"}}}}, "courses"),
        ({"warnings": [{"kind": "warning", "t": 1e99}]}, "warnings"),
    ],
)
def test_nonsense_is_named(change: dict, why: str) -> None:
    body = msgpack.unpackb(RunSummary("one").apply_all(a_run()).packed())
    with pytest.raises(DataError, match=f"not a summary of a run .*{why}"):
        RunSummary.unpacked(msgpack.packb(body | change))
    with pytest.raises(DataError, match="not a summary of a run"):
        RunSummary.unpacked(b"\xc1")


def test_the_state_of_a_run_at_a_moment() -> None:
    summary = RunSummary("one").apply_all([Event("run", state="started", t=100.0)])
    assert (summary.state_at(130.0), summary.state_at(161.0)) == ("going", "silent")
    summary.apply(Event("run", state="paused", t=110.0))
    assert summary.state_at(900.0) == "paused", "then it has nothing to tell"
    summary.apply(Event("run", state="done", t=120.0))
    assert summary.state_at(900.0) == "done"
