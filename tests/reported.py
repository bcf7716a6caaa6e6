"""A run with all that a report shows, made in this process: text that means harm, a model that decodes, results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cli.decoding import DecodingOptions
from cli.launch import evaluate_run
from streamrec_dist.config_file import load_config
from streamrec_dist.events import Event, EventLog
from streamrec_dist.model.weights import export_weights
from streamrec_dist.rundir import RunDir, StageResult
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.stages.tokenize import Tokenized
from streamrec_dist.types import REWARDS
from tests.conftest import TINY, write_shop
from tests.local_ports import UNGUIDED

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}&amp;"
TURNED = "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627"
CONTROLS = "\x1b[31mred\x07\x00\x85"
EMOJI = "\U0001f468\u200d\U0001f469\u200d\U0001f467 lamp \u00e9" + "\u0301" * 40
LONG = "endless" * 400
HARMFUL = (MARKUP, TURNED, CONTROLS, EMOJI, LONG)
STEPS = 40


def reported_run(root: Path) -> RunDir:
    """A run on the shop of the tests, whose items have such titles, with untrained weights of stage 3."""
    (root / "cluster.yaml").write_text(TINY, encoding="utf-8")
    write_shop(root / "shop")
    table = root / "shop" / "items.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    # A CSV file has no control characters in it: the reader would refuse them. Titles of JSON may have them.
    for place, text in enumerate(HARMFUL):
        for item in range(place, 60, 7):
            lines[item + 1] = f'i{item},"{text.replace(chr(0), "")} {item}"'
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = RunDir.create(root / "runs", "demo", load_config(root / "cluster.yaml", UNGUIDED))
    store = RunStore(run.path)
    weights_of_all(run, store)
    EventLog(run.events_path).append(events())
    run.finish_stage(
        StageResult("sft", 61.0, 8, {"ndcg@10": 0.02, "ndcg@10_ci": [0.01, 0.03], "nested": {"a": [1, 2]}})
    )
    run.finish_stage(
        StageResult("rl", 75.0, STEPS, {"ndcg@10": 0.03, "ndcg@10_ci": [0.02, 0.04], "best_step": 40})
    )
    judge(run, "rl"), judge(run, "direct"), judge(run, "counting")
    for samples in (2, 4):
        judge(run, "rl", thoughts="sampled", samples=samples)
    return run


def weights_of_all(run: RunDir, store: RunStore) -> None:
    """Ids at random, and the weights that the model of the run begins with."""
    items = np.arange(store.dataset().n_items)
    keys = np.random.default_rng(0).permutation(16**3)[: len(items)]
    codes = np.stack([keys // 256, keys // 16 % 16, keys % 16], axis=1).astype(np.int32)
    neighbours = np.stack([(items + place) % len(items) for place in range(1, 9)], axis=1).astype(np.int32)
    store.save_items(Tokenized(neighbours, codes, {"none": np.zeros(1, np.float32)}, {}))
    torch.manual_seed(0)
    for stage in ("pretrain", "rl"):
        run.save_weights(stage, export_weights(store.materials(run.config(), stage).new_model()))


def judge(run: RunDir, stage: str, **options: object) -> None:
    """Evaluate in this process."""
    wanted = DecodingOptions(**options)  # type: ignore[arg-type]
    evaluate_run(run, stage, "valid", False, None, False, lambda done, total: None, wanted)


def events() -> list[Event]:
    """What stages 2 and 3 tell, and names and messages that mean harm."""
    distances = {"sampled_nll": 3.0, "gold_nll": 2.0, "distance": [1, 0.5, 0.2]}
    interval = [0.005, 0.05]
    worker = {
        "role": "rollout",
        "number": 0,
        "node": "head",
        "state": MARKUP,
        "memory_mib": 300,
        "restarts": 1,
    }
    workers = {"processes": [worker, {**worker, "number": 1}]}
    rl = [
        Event("step", "rl", step=one, total=STEPS, metrics=step_metrics(one), t=1100.0 + 2 * one)
        for one in range(1, STEPS + 1)
    ]
    for one in (0, 20, STEPS):
        metrics = {"ndcg@10": 0.01 + one / 2000, "ndcg@10_ci": interval}
        rl.append(Event("eval", "rl", step=one, split="valid", metrics=metrics, t=1100.5 + 2 * one))
    odd = {f"$x_1$ {MARKUP}": 1.0, CONTROLS: 2.0, "\u05e9" * 30: 3.0, "x": 1e308}
    about = {"torch": "2.9", "processor": MARKUP}
    return [
        Event("run", state="started", metrics={"stages": ["sft", "rl"], "environment": about}, t=1000.0),
        Event("stage", "sft", state="started", total=8, t=1000.0),
        *(Event("round", "sft", step=one, metrics=distances, t=1000.0 + one) for one in (0, 1)),
        *(Event("step", "sft", one, 8, metrics={"loss": 4 / one}, t=1002.0 + one) for one in range(1, 9)),
        Event("stage", "sft", state="done", t=1061.0),
        Event("stage", "rl", state="started", total=STEPS, t=1100.0),
        *sorted(rl, key=lambda event: event.t),
        Event("workers", "rl", metrics=workers, t=1180.0),
        *(Event("warning", "rl", message=text, t=1180.0) for text in HARMFUL),
        Event("step", MARKUP, step=1, metrics=odd, t=1181.0),
        Event("step", "../../evil", step=1, metrics={"x": 1.0}, t=1181.0),
        Event("stage", "rl", state="done", metrics={"ndcg@10": 0.03}, t=1181.0),
        Event("run", state="done", t=1182.0),
    ]


def step_metrics(step: int) -> dict[str, object]:
    """Of a step of stage 3: rollout actors generate for 3 s of 4, the learner trains for one of 2."""
    rewards = {f"reward/{name}": 0.0 if name == "format" else step / 100 for name in (*REWARDS, "total")}
    spreads = {f"spread/{name}": 0.0 if name == "format" else 0.3 for name in (*REWARDS, "total")}
    shares = {f"share/{name}": {"likelihood": 0.9, "format": 0.0}.get(name, 0.03) for name in REWARDS}
    times = {"generate": 3.0, "adopt": 0.2, "wait_rollout": 0.8, "score": 0.1, "wait_reward": 1.9}
    times |= {"forward": 0.4, "backward": 0.6, "wait_learner": 1.0}
    flow = {
        "learner_idle": 0.5,
        "rollout_idle": 0.2,
        "seconds": 2.0,
        "staleness": 1,
        "staleness_counts": [2, 6],
    }
    return {
        **rewards,
        **spreads,
        **shares,
        **{f"time/{name}": s for name, s in times.items()},
        **flow,
        "kl": 0.01 * step,
    }
