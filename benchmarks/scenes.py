"""Runs to look at: the events of each are the same whenever and wherever they are made."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cli.dashboard.live import LiveView
from cli.follow import Follower
from streamrec_dist.config import Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.events import Event, EventLog
from streamrec_dist.rundir import RunDir
from streamrec_dist.types import REWARDS

#: When the runs began: 2026-03-02, 10:00 in UTC.
BEGAN = 1772445600.0
SETTINGS = "stages: {rl: {steps: 400, prompts: 64, eval_every: 50, max_staleness: 2}}"
PLACES = (("evaluate", 2), ("learners", 2), ("reward", 2), ("rollout", 4))
#: Seconds of a step of RL, and when its first step begins.
STEP_S, RL_S = 1.5, 700.0
#: Mean of each reward when RL begins, and by how much a step raises it.
COURSES = {
    "format": (-0.004, 0.00001),
    "exact_match": (0.41, 0.0007),
    "similarity": (0.021, 0.00008),
    "likelihood": (0.0, 0.0),
    "ranking": (0.012, 0.0001),
}
SPREADS = {"format": 0.05, "exact_match": 0.38, "similarity": 0.07, "likelihood": 0.13, "ranking": 0.05}
SHARES = {"format": 0.03, "exact_match": 0.61, "similarity": 0.06, "likelihood": 0.24, "ranking": 0.06}
PARTS = {
    "adopt": 0.02,
    "generate": 3.9,
    "score": 0.31,
    "prepare": 0.05,
    "forward": 0.44,
    "backward": 0.71,
    "optimise": 0.09,
    "publish": 0.03,
    "wait_rollout": 0.8,
    "wait_reward": 1.1,
    "wait_learner": 1.6,
}


def config() -> Config:
    """What the runs were told."""
    return parse_config(SETTINGS, "scene")


def before_rl() -> Iterator[Event]:
    """The stages before: each begins, makes some steps and ends."""
    yield Event("run", state="started", metrics={"stages": ["retrieve", "pretrain", "sft", "rl"]}, t=BEGAN)
    yield Event("stage", "tokenize", state="skipped", t=BEGAN)
    for stage, first, last, ndcg in (
        ("retrieve", 4, 130, 0.061),
        ("pretrain", 130, 420, 0.0402),
        ("sft", 420, 690, 0.0431),
    ):
        yield Event("stage", stage, state="started", t=BEGAN + first)
        for step in range(1, 51):
            loss = 2 + 6 / (step + 2)
            measures = {"loss": loss, "nll": loss - 0.3, "lr": 5e-4, "grad_norm": 0.8, "rows_per_s": 1800}
            at = BEGAN + first + (last - first) * step / 51
            yield Event("step", stage, step, 50, metrics=measures, t=at)
        yield judged(stage, 50, ndcg, BEGAN + last - 1)
        metrics = {"ndcg@10": ndcg, "best_step": 50}
        yield Event("stage", stage, 50, state="done", metrics=metrics, t=BEGAN + last)


def judged(stage: str, step: int, ndcg: float, t: float, change: float | None = None) -> Event:
    measures = {"recall@5": 1.5 * ndcg, "recall@10": 1.9 * ndcg, "ndcg@5": 0.8 * ndcg, "ndcg@10": ndcg}
    more = {"ndcg@10_ci": [ndcg - 0.0049, ndcg + 0.0051], "users": 1000}
    if change is not None:
        more |= {"ndcg@10_change": change, "ndcg@10_change_ci": [change - 0.0018, change + 0.0017]}
        more["invalid_beam_share"] = 0.0
    return Event("eval", stage, step, split="valid", metrics=measures | more, t=t)


def rl_step(step: int, steps: int = 400, collapsed: bool = False) -> Event:
    """A step of stage 3. `collapsed`: from step 60 on all rollouts are items, and exact matches are most there is."""
    draw = random.Random(step)
    metrics: dict[str, Any] = {}
    total = 0.0
    for name in REWARDS:
        mean, rise = COURSES[name]
        value = mean + rise * step + draw.gauss(0, 0.15 * SPREADS[name])
        spread = SPREADS[name] * (1 + 0.1 * draw.random())
        share = SHARES[name] * (1 + 0.05 * draw.random())
        if collapsed and step > 60:
            value, spread, share = {
                "format": (0.0, 0.0, 0.0),
                "exact_match": (value, spread, 0.93),
                "similarity": (value / 4, 0.0, 0.0),
            }.get(name, (value / 4, spread / 8, share / 5))
        metrics |= {f"reward/{name}": value, f"spread/{name}": spread, f"share/{name}": share}
        total += value
    metrics |= {"reward/total": total, "spread/total": 0.44, "raw_likelihood": 0.3 + 0.001 * step}
    metrics |= {
        "kl": 0.0004 * step * (1 + 0.1 * draw.random()),
        "entropy": 3.1 - 0.002 * step,
        "ratio": 1 + 0.002 * draw.gauss(0, 1),
        "clip_share": 0.02 + 0.01 * draw.random(),
        "grad_norm": 0.4 + 0.2 * draw.random(),
        "lr": 1e-5 * min(1.0, step / 8) * (1 - 0.8 * step / steps),
        "loss": 5e-5 * draw.gauss(0, 1),
        "seconds": STEP_S,
        "staleness": 0.9,
        "staleness_counts": [22, 30, 12],
        "groups_per_s": 40.1 + draw.random(),
        "version": step,
        "buffered": 24,
        "no_signal": draw.randrange(7),
        "no_step": 0,
        "rollouts_per_s": 671 + 20 * draw.random(),
        "tokens_per_s": 6710 + 200 * draw.random(),
        "learner_idle": 0.11 + 0.02 * draw.random(),
        "rollout_idle": 0.06 + 0.02 * draw.random(),
        "adopted_s": 0.021 + 0.002 * draw.random(),
    }
    metrics |= {f"time/{name}": seconds * (1 + 0.05 * draw.random()) for name, seconds in PARTS.items()}
    if step % 50 == 1:
        metrics["time/evaluate"] = 4.2
    return Event("step", "rl", step, steps, metrics=metrics, t=BEGAN + RL_S + STEP_S * step)


def processes(step: int, t: float, restarting: bool = False) -> Event:
    """The state of all processes; `restarting`: the third rollout actor has died and is starting again."""
    rows = []
    for role, count in PLACES:
        for number in range(count):
            anew = restarting and (role, number) == ("rollout", 2)
            row: dict[str, Any] = {"role": role, "number": number, "node": "127.0.0.1"}
            row |= {"state": "starting"} if anew else {"state": "ready", "pid": 4000 + 10 * len(rows)}
            row["restarts"] = int(anew)
            if role in ("learners", "rollout") and not anew:
                row["version"] = step - (role == "rollout") * (number % 2)
            if not anew:
                row["rate"] = {"evaluate": 0.0, "learners": 0.67, "reward": 5.34, "rollout": 2.67}[role]
            if not anew:
                row["memory_mib"] = {"evaluate": 392, "learners": 611, "reward": 344, "rollout": 418}[role]
            rows.append(row)
    return Event("workers", "rl", metrics={"processes": rows}, t=t)


def in_rl(last: int, collapsed: bool = False, steps: int = 400) -> Iterator[Event]:
    """A run up to a step of stage 3."""
    yield from before_rl()
    yield Event("stage", "rl", state="started", t=BEGAN + 691)
    yield judged("rl", 0, 0.0431, BEGAN + RL_S)
    for step in range(1, last + 1):
        event = rl_step(step, steps, collapsed)
        yield event
        if step % 50 == 0:
            ndcg = 0.0431 + 0.00002 * step - 0.0012 * (step == 150)
            yield judged("rl", step, ndcg, event.t + 0.9, ndcg - 0.0431)
    yield processes(last, BEGAN + RL_S + STEP_S * last + 0.5)


def healthy() -> Iterator[Event]:
    yield from in_rl(180)


def restarting() -> Iterator[Event]:
    yield from in_rl(120)
    t = BEGAN + RL_S + STEP_S * 120 + 0.8
    died = "a rollout actor on 127.0.0.1 died; it is replaced, and 2 calls are begun again"
    yield Event("warning", "rl", message=died, t=t)
    yield processes(120, t + 0.4, restarting=True)


def collapsed() -> Iterator[Event]:
    yield from in_rl(150, collapsed=True)


def finished() -> Iterator[Event]:
    yield from in_rl(400)
    t = BEGAN + RL_S + STEP_S * 400 + 3
    yield Event("stage", "rl", 400, state="done", metrics={"ndcg@10": 0.0511, "best_step": 400}, t=t)
    yield Event("run", state="done", t=t + 0.1)


def crashed() -> Iterator[Event]:
    yield from in_rl(93)
    t = BEGAN + RL_S + STEP_S * 93
    for number in range(4):
        lost = "stage rl goes on from its checkpoint of step 80: a learner process died"
        yield Event("warning", "rl", message=lost, t=t + 1 + 8 * number)
    said = (
        "a learner process died four times without a newer checkpoint in between: does it run out of memory? "
        "see `streamrec-dist logs learners`"
    )
    yield Event("run", "rl", state="failed", message=said, t=t + 33)


def started() -> Iterator[Event]:
    yield from before_rl()
    yield Event("stage", "rl", state="started", t=BEGAN + 691)
    rows = [
        {"role": role, "number": number, "state": "starting", "restarts": 0}
        for role, count in PLACES
        for number in range(count)
    ]
    yield Event("workers", "rl", metrics={"processes": rows}, t=BEGAN + 696)


def thinking() -> Iterator[Event]:
    """Stage 2, in its third round."""
    events = list(before_rl())
    first = next(place for place, event in enumerate(events) if (event.kind, event.stage) == ("stage", "sft"))
    yield from events[: first + 1]
    for step in range(1, 131):
        round_of = 1 + step // 50
        t = BEGAN + 430 + 1.4 * step + 12 * round_of
        if step % 50 == 0 or step == 1:
            number = step // 50
            measures: dict[str, Any] = {
                "sampled_nll": 6.1 - 0.5 * number,
                "gold_nll": 2.9 - 0.3 * number,
                "leak": 3.2 - 0.2 * number,
                "distance": [0.71 - 0.05 * place - 0.03 * number for place in range(4)],
                "own_distance": [0.83 - 0.02 * place - 0.03 * number for place in range(4)],
                "distinct_thoughts": 2.4,
                "target_share": 0.07 + 0.02 * number,
            }
            measures |= {"rows_per_s": 612.0} if number else {}
            yield Event("round", "sft", number, metrics=measures, t=t - 6)
        if step % 50 == 0:
            yield judged("sft", step, 0.039 + 0.00004 * step, t - 4)
        loss = 3 + 9 / (step + 4)
        metrics = {"loss": loss, "nll": loss - 0.4, "dpo": 0.69 - 0.001 * step, "quantisation": 0.31}
        metrics |= {"state": 0.9, "lr": 5e-4, "grad_norm": 0.7, "seconds": 1.4, "rows_per_s": 183.0}
        metrics |= {"epoch": 1 + step // 25, "round": round_of}
        yield Event("step", "sft", step, 200, metrics=metrics, t=t)


def tokenizing() -> Iterator[Event]:
    yield Event("run", state="started", metrics={"stages": ["tokenize", "retrieve"]}, t=BEGAN)
    yield Event("stage", "tokenize", state="started", t=BEGAN + 1)
    for done in range(256, 2001, 256):
        yield Event("step", "tokenize", done, 2000, metrics={"embedded": done}, t=BEGAN + 2 + done / 100)
    for epoch in range(1, 121):
        used = [min(256, 40 + 2 * epoch), min(256, 90 + 2 * epoch), min(256, 120 + 2 * epoch)]
        measures: dict[str, Any] = {"loss": 1 / (epoch + 3), "recon": 0.8 / (epoch + 3), "used_codes": used}
        yield Event("step", "tokenize", epoch, 200, metrics=measures, t=BEGAN + 24 + 0.2 * epoch)


HOSTILE = (
    "\x1b[31mred\x07 [bold]tag[/bold] <b>html</b> \u202eright\u2066 שלום עולם 東京の本 "
    "👩\u200d👩\u200d👧🏽 z\u0351\u0352\u0353\u0354\u0355lgo "
)


def hostile() -> Iterator[Event]:
    """Names and messages that would break a screen which trusted them."""
    yield from in_rl(30)
    t = BEGAN + RL_S + STEP_S * 30
    for number in range(3):
        yield Event("warning", "rl", message=HOSTILE * (1 + 200 * number), t=t + number)
    rows: list[Any] = [
        {"role": HOSTILE, "number": -3, "node": ["x"], "pid": "y", "state": {"a": 1}, "rate": 1e308},
        {"role": ["list"], "number": 1e300, "state": HOSTILE, "version": 2**62, "memory_mib": "much"},
        {"role": None, "number": None, "restarts": 10**18},
    ]
    yield Event("workers", "rl", metrics={"processes": rows}, t=t + 3)
    yield Event("eval", "rl", 30, split=HOSTILE, metrics={"ndcg@10": "high", "recall@10": [1]}, t=t + 3)


#: The events of each scene, and how long after the last one it is looked at.
SCENES: dict[str, tuple[Callable[[], Iterator[Event]], float]] = {
    "healthy": (healthy, 0.7),
    "restarting": (restarting, 0.7),
    "collapsed": (collapsed, 0.7),
    "finished": (finished, 5000.0),
    "crashed": (crashed, 5000.0),
    "starting": (started, 2.0),
    "thinking": (thinking, 0.5),
    "tokenizing": (tokenizing, 0.1),
    "hostile": (hostile, 0.5),
}


def make(runs: Path, scene: str, name: str = "demo") -> tuple[RunDir, float]:
    """A run of that scene in the folder `runs`, and the time at which it is looked at."""
    events, later = SCENES[scene]
    run = RunDir.create(runs, name, config())
    told = list(events())
    EventLog(run.events_path).append(told)
    return run, told[-1].t + later


def show(scene: str) -> None:
    """A scene in this terminal, as `watch` shows it; it stays at the time at which it is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        run, now = make(Path(folder), scene)
        follower = Follower(run, None, clock=lambda: now)
        follower.follow(LiveView(run, stay=True, clock=lambda: now))


if __name__ == "__main__":
    show(sys.argv[1])
