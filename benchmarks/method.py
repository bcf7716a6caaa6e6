"""What each stage of a run did, and what thinking longer buys: the numbers behind docs/method.md.

    python benchmarks/method.py --run runs/scientific-1 --users 2000

Reads the run's events, and decodes validation users in this process: how near thoughts bring the state to the target
before and after stage 2; how the last model ranks by more or fewer thinking steps, sampled thoughts and wider beams,
each with its milliseconds a user. Test users are not looked at. Writes --out; `benchmarks/method_plots.py` draws it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import begin, hardware

from streamrec_dist.data.batches import targets
from streamrec_dist.data.split import rows_of_some, split_rows
from streamrec_dist.decode.search import Plan
from streamrec_dist.events import Event
from streamrec_dist.materials import Materials
from streamrec_dist.metrics import beam_ranks, ndcg
from streamrec_dist.model.weights import import_weights
from streamrec_dist.rundir import RunDir, write_atomically
from streamrec_dist.stages.annotate import ThinkingMeter
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.types import REWARDS

#: Points that a curve of steps is averaged down to.
POINTS = 24
#: Users decoded before the clock starts.
WARM = 64


def main() -> None:
    arguments = _arguments()
    begin(arguments.threads)
    run = RunDir.open(arguments.run)
    events = run.all_events()
    body = {
        "run": run.name,
        "users": arguments.users,
        "hardware": hardware("", torch.device("cpu"), arguments.threads),
        "command": f"python benchmarks/method.py --run {arguments.run} --users {arguments.users} "
        f"--threads {arguments.threads}",
        "pretrain": pretraining(events),
        "sft": rounds(events),
        "rl": rewards(events),
        "distances": distances(run, arguments.users),
        "scaling": scaling(run, arguments.users),
    }
    out = arguments.out or Path(__file__).parent / "results" / f"method-{run.name}.json"
    write_atomically(out, json.dumps(body, indent=1))
    print(json.dumps(body["scaling"], indent=1))


def of_kind(events: list[Event], kind: str, stage: str) -> list[Event]:
    """The last event of each step, in order: a resumed run does some steps again."""
    by_step = {event.step: event for event in events if (event.kind, event.stage) == (kind, stage)}
    return [by_step[step] for step in sorted(by_step)]


def curve(events: list[Event], name: str) -> list[tuple[float, float]]:
    """(step, mean) of a metric in POINTS parts of the steps."""
    known = [(event.step, event.metrics[name]) for event in events if event.metrics.get(name) is not None]
    parts = np.array_split(np.array(known, dtype=float).reshape(-1, 2), min(POINTS, max(len(known), 1)))
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts if len(part)]


def validation(events: list[Event], stage: str) -> list[tuple[int, float]]:
    return [(event.step, event.metrics["ndcg@10"]) for event in of_kind(events, "eval", stage)]


def pretraining(events: list[Event]) -> dict[str, Any]:
    """Negative log-likelihood a token of the long target and of the item, and NDCG@10 of the direct decoder."""
    steps = of_kind(events, "step", "pretrain")
    return {name: curve(steps, name) for name in ("thinking", "direct")} | {
        "ndcg@10": validation(events, "pretrain")
    }


def rounds(events: list[Event]) -> dict[str, Any]:
    """By round: the distance of states to targets at each thinking step, the leak, and NDCG@10."""
    names = ("distance", "sampled_nll", "gold_nll", "leak", "distinct_thoughts", "target_share")
    found = [
        {"round": event.step} | {name: event.metrics[name] for name in names}
        for event in of_kind(events, "round", "sft")
    ]
    return {"rounds": found, "ndcg@10": validation(events, "sft")}


def rewards(events: list[Event]) -> dict[str, Any]:
    """Each reward's mean, spread within groups and share of the advantage over the steps; NDCG@10."""
    steps = of_kind(events, "step", "rl")
    names = [f"{kind}/{name}" for kind in ("reward", "spread", "share") for name in REWARDS]
    names += ["reward/total", "kl", "entropy"]
    return {name: curve(steps, name) for name in names} | {"ndcg@10": validation(events, "rl")}


def opened(run: RunDir, stage: str, users: int) -> tuple[Recommender, np.ndarray]:
    """The model of a stage, and rows int64 [n, 2] of validation users."""
    store = RunStore(run.path)
    materials = store.materials(run.config(), stage)
    model = materials.new_model()
    import_weights(model, store.load_weights(stage))
    rows = rows_of_some(split_rows(materials.corpus, "valid"), users, np.random.default_rng(0))
    return Recommender(materials, model, stage), rows


def distances(run: RunDir, users: int) -> dict[str, Any]:
    """By stage: mean distance of s_0 .. s_l to the target, along annotated and along the model's own thoughts."""
    found = {}
    for stage in ("pretrain", "sft"):
        recommender, rows = opened(run, stage, users)
        measured = ThinkingMeter(recommender.materials, recommender.engine).measure(rows)
        names = {"annotated": "distance", "own": "own_distance"}
        found[stage] = {name: measured[column].mean(axis=0).tolist() for name, column in names.items()}
    return found


def scaling(run: RunDir, users: int) -> dict[str, Any]:
    """NDCG@10 on validation users, and milliseconds for one, by thinking steps, samples and beam."""
    recommender, rows = opened(run, run.last_model(), users)
    usual = recommender.plan
    steps = {count: timed(recommender, rows, replace(usual, steps=count)) for count in range(usual.steps + 1)}
    ranks = np.stack([found.pop("ranks") for found in steps.values()])
    # The best depth of each user, known only afterwards: no policy that chooses a depth does better.
    best = np.where(ranks == 0, np.iinfo(np.int64).max, ranks).min(axis=0)
    oracle = ndcg(np.where(best == np.iinfo(np.int64).max, 0, best), 10).mean()
    plans = {count: Plan("sampled", usual.steps, count) for count in (1, 2, 4, 8, 16)}
    samples = {count: timed(recommender, rows, plan) for count, plan in plans.items()}
    beams = {beam: timed(recommender, rows, usual, beam) for beam in (5, 10, 20, 50)}
    for found in (*samples.values(), *beams.values()):
        found.pop("ranks")
    return {
        "steps": steps,
        "oracle": float(oracle),
        "samples": samples,
        "beam": beams,
        "evidence": of_evidence(recommender.materials, rows),
    }


def of_evidence(materials: Materials, rows: np.ndarray) -> float | None:
    """NDCG@10 of the evidence alone, its items in the order of their probabilities; none without evidence."""
    if materials.evidence is None:
        return None
    items, share = materials.evidence.of(materials.corpus, rows)
    # Among items of the same probability the target stands in the middle.
    draws = np.full(len(rows), 0.5)
    ranks = beam_ranks(items.astype(np.int64), share, targets(materials.corpus, rows), draws)
    return float(ndcg(ranks, 10).mean())


def timed(recommender: Recommender, rows: np.ndarray, plan: Plan, beam: int = 20) -> dict[str, Any]:
    recommender.plan = plan
    recommender.target_ranks(rows[:WARM], False, beam)
    started = time.perf_counter()
    ranks = recommender.target_ranks(rows, False, beam)
    seconds = time.perf_counter() - started
    return {
        "ndcg@10": float(ndcg(ranks, 10).mean()),
        "ms": 1000 * seconds / len(rows),
        "ranks": ranks,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/method-RUN.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
