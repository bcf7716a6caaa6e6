"""The table of a data set: every baseline and every stage, from raw files, by the commands that a user types.

    python benchmarks/science.py --set Beauty --seeds 1 2 3
    python benchmarks/science.py --set Beauty --table        # prints what benchmarks/results/science.json has

It brings a cluster up as configs/SET.yaml says, trains one run a seed in configs/runs/ (or goes on with it: every
part is resumed where it was left), evaluates on the test split, with the history allowed and masked, and adds the
rows to --out as they come. All is selected on validation; the test split is only ever evaluated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measure import hardware

from cli.output import four, interval
from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.rundir import STAGES, RunDir, write_atomically

ROOT = Path(__file__).resolve().parent.parent
#: Where the configurations lie; runs are made beside them.
CONFIGS = ROOT / "configs"
#: What is evaluated -> its name in the table, and the stage whose minutes it took.
MODELS = {
    "counting": ("counting (no training)", None),
    "gru4rec": ("GRU4Rec", "gru4rec"),
    "sasrec-bce": ("SASRec, BCE", "sasrec-bce"),
    "sasrec": ("SASRec, full softmax", "sasrec"),
    "tiger": ("TIGER, trained alone", "tiger"),
    "direct": ("direct decoder (= TIGER)", "pretrain"),
    "retrieve": ("retriever (the evidence alone)", "retrieve"),
    "pretrain": ("after pretrain", "pretrain"),
    "sft": ("after SFT", "sft"),
    "rl": ("after RL", "rl"),
}
MEASURES = ("ndcg@10", "recall@10")


def main() -> None:
    arguments = _arguments()
    rows = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    if not arguments.table:
        for row in measure(arguments, rows):
            rows.append(row)
            write_atomically(arguments.out, json.dumps(rows, indent=1))
    print("\n".join(table(rows, arguments.set)))


def measure(arguments: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows that `known` lacks, as they are evaluated."""
    _command("up", f"{arguments.set.lower()}.yaml")
    try:
        for seed in arguments.seeds:
            run = RunDir(CONFIGS / "runs" / f"{arguments.set.lower()}-{seed}")
            _train(run, seed, arguments.models)
            for model in arguments.models:
                for masked in (False, True):
                    key = {
                        "set": arguments.set,
                        "model": model,
                        "seed": seed,
                        "masked": masked,
                        "split": "test",
                    }
                    if not any(all(row[field] == value for field, value in key.items()) for row in known):
                        yield key | _evaluate(arguments.set, seed, run, model, masked)
    finally:
        _command("down")


def _train(run: RunDir, seed: int, models: list[str]) -> None:
    if run.finished_stages() != list(STAGES):
        resume = ("--resume",) if run.path.exists() else ("--set", f"seed={seed}")
        _command("train", "--stage", "all", "--run", run.name, *resume)
    for baseline in TRAINED:
        if baseline in models and run.stage_result(baseline) is None:
            _command("train", "--baseline", baseline, "--run", run.name)


def _evaluate(name: str, seed: int, run: RunDir, model: str, masked: bool) -> dict[str, Any]:
    options = ["--stage", model, "--split", "test", "--json", *(["--mask-history"] if masked else [])]
    result = json.loads(_command("evaluate", run.name, *options).splitlines()[-1])
    trained = MODELS[model][1]
    stage = run.stage_result(trained) if trained else None
    return {
        "stage": MODELS[model][1] or model,
        **{key: result[key] for measure in MEASURES for key in (measure, f"{measure}_ci")},
        "users": result["users"],
        "command": f"python benchmarks/science.py --set {name} --seeds {seed}",
        "hardware": hardware("", torch.device("cpu"), os.cpu_count() or 1),
        "minutes": round(stage.seconds / 60, 1) if stage else 0.0,
    }


def _command(*words: str) -> str:
    """Run one command of the CLI beside the configurations; its stdout. What it says on stderr is passed on."""
    print(f"$ streamrec-dist {' '.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "cli.app", *words],
        cwd=CONFIGS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"streamrec-dist {words[0]} ended with exit code {done.returncode}")
    return done.stdout


def table(rows: list[dict[str, Any]], name: str) -> Iterator[str]:
    """Lines of Markdown: means over seeds; the interval is that of the seed, or the range of the seeds."""
    yield "| model | R@10 | N@10 | R@10 masked | N@10 masked | seeds | minutes |"
    yield "|---|---|---|---|---|---|---|"
    for model, (title, _) in MODELS.items():
        own = [row for row in rows if row["set"] == name and row["model"] == model]
        if not own:
            continue
        cells = [
            _cell([row for row in own if row["masked"] == masked], measure)
            for masked in (False, True)
            for measure in ("recall@10", "ndcg@10")
        ]
        seeds = len({row["seed"] for row in own})
        minutes = sum(row["minutes"] for row in own) / len(own)
        yield f"| {title} | {' | '.join(cells)} | {seeds} | {minutes:.0f} |"


def _cell(rows: list[dict[str, Any]], measure: str) -> str:
    if not rows:
        return ""
    values = [row[measure] for row in rows]
    low, high = rows[0][f"{measure}_ci"] if len(rows) == 1 else (min(values), max(values))
    return f"{four(sum(values) / len(values))} {interval((low, high))}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set", required=True, help="a data set that configs/ has a file of: Beauty, Scientific"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "science.json")
    parser.add_argument("--table", action="store_true", help="measure nothing; print the rows there are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
