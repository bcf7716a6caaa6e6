"""The table of a data set: every baseline and every stage, from raw files, by the commands that a user types.

    python benchmarks/science.py --set Beauty --seeds 1 2 3
    python benchmarks/science.py --set Beauty --split valid  # what settings are chosen by
    python benchmarks/science.py --set Beauty --table        # prints what benchmarks/results/science.json has

It brings a cluster up as configs/SET.yaml says, trains one run a seed in runs/ (or goes on with it: every part is
resumed where it was left), evaluates it, with the history allowed and masked, and adds the rows to --out as they
come; how far SFT and RL are ahead of TIGER is written beside, to OUT_gains.json. Baselines and the model without
evidence are runs of their own, from the same ids. A run that was trained with other settings than configs/SET.yaml
is refused. Epochs are selected on validation users.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster_runs import (
    ROOT,
    RUNS,
    Row,
    add_row,
    cluster,
    command,
    fingerprint,
    is_known,
    known_rows,
    options,
    result,
)
from measure import machine

from cli.output import chance, four, interval, signed
from cli.plan import decides
from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.config_file import differing_keys, load_config
from streamrec_dist.rundir import STAGES, RunDir, StageResult
from streamrec_dist.stages.evaluate import result_name

#: What begins with it is of a second run from the same ids, without evidence.
PLAIN = "plain-"
#: What the decoders of that run need beyond the configuration of the set: told nothing, they have more to learn, and
#: dropout keeps them from it.
PLAIN_SETTINGS = (
    "model.dropout=0",
    "stages.pretrain.lr=0.003",
    "stages.pretrain.epochs=10",
    "stages.pretrain.patience=10",
    "stages.sft.own_thoughts=1",
    "stages.sft.lr=0.001",
    "stages.sft.epochs=3",
    "stages.sft.rounds=4",
    "stages.rl.rows=all",
    "stages.rl.steps=120",
)
#: What replaces these on a set, or is told besides: as validation had it.
PLAIN_OF_SET = {
    "Beauty": (
        "stages.pretrain.epochs=20",
        "stages.pretrain.patience=20",
        "stages.pretrain.history_dropout=0.3",
        "stages.pretrain.eval_every=2",
    )
}
#: What is evaluated -> its name in the table, and the stage whose minutes it took.
MODELS = {
    "counting": ("counting (no training)", None),
    "gru4rec": ("GRU4Rec", "gru4rec"),
    "sasrec-bce": ("SASRec, BCE", "sasrec-bce"),
    "sasrec": ("SASRec, full softmax", "sasrec"),
    "tiger": ("TIGER, trained alone", "tiger"),
    "plain-direct": ("direct decoder (TIGER beside thinking)", "pretrain"),
    "plain-pretrain": ("thinking without evidence, after pretrain", "pretrain"),
    "plain-sft": ("thinking without evidence, after SFT", "sft"),
    "plain-rl": ("thinking without evidence, after RL", "rl"),
    "retrieve": ("retriever (the evidence alone)", "retrieve"),
    "pretrain": ("after pretrain", "pretrain"),
    "sft": ("after SFT", "sft"),
    "rl": ("after RL", "rl"),
}
MEASURES = ("ndcg@10", "recall@10")
#: What is said of RL's rows where validation was best before its first step.
AS_SFT = "SFT's weights"
#: Keys by which results are decoded, and epochs chosen.
DECODED = tuple(f"stages.evaluate.{name}:" for name in ("thoughts", "samples", "beam"))
#: What there is one row of.
PLACE = ("set", "model", "seed", "masked", "split")


def main() -> None:
    arguments = _arguments()
    if not arguments.table:
        with cluster(f"{arguments.set.lower()}.yaml"):
            fill(arguments)
    rows, compared = known_rows(arguments.out), known_rows(_gains_path(arguments))
    print("\n".join([*table(rows, arguments), *gains_table(compared, arguments)]))


def fill(arguments: argparse.Namespace) -> None:
    """Train and measure, on the cluster that runs, what the chosen rows lack."""
    rows, compared = known_rows(arguments.out), known_rows(_gains_path(arguments))
    for seed in arguments.seeds:
        runs = Runs.train(arguments, seed)
        for row in measure(arguments, rows, runs):
            rows = _replace(arguments.out, rows, row)
        for row in gains(arguments, compared, runs):
            compared = _replace(_gains_path(arguments), compared, row)


@dataclass(frozen=True)
class Runs:
    """What one seed is judged by: the run of the stages, that without evidence, and that of the baselines."""

    seed: int
    main: RunDir
    plain: RunDir
    baselines: RunDir

    @staticmethod
    def train(arguments: argparse.Namespace, seed: int) -> Runs:
        """All that the chosen models need; exits where a run was trained with other settings than these."""
        name = f"{arguments.set.lower()}-{seed}"
        runs = Runs(seed, *(RunDir(RUNS / f"{name}{end}") for end in ("", "-plain", "-baselines")))
        own = [f"seed={seed}"]
        plain = [*own, "model.evidence=0", *arguments.plain]
        settings = {runs.main: own, runs.plain: plain, runs.baselines: own}
        for run, wanted in settings.items():
            _refuse_another(run, arguments.set, wanted)
        from_main = ("--from", runs.main.name, "--config", _config(arguments.set))
        _train_stages(runs.main, _last_stage(arguments.models, plain=False), own)
        if any(model.startswith(PLAIN) for model in arguments.models):
            _train_stages(runs.plain, _last_stage(arguments.models, plain=True), plain, *from_main)
        for baseline in TRAINED:
            if baseline in arguments.models and runs.baselines.stage_result(baseline) is None:
                begun = runs.baselines.path.exists()
                words = () if begun else (*from_main, *options(own))
                command("train", "--baseline", baseline, "--run", runs.baselines.name, *words)
        return runs

    def of(self, model: str) -> RunDir:
        """The run whose result `model` is."""
        return self.plain if model.startswith(PLAIN) else self.baselines if model in TRAINED else self.main


def measure(arguments: argparse.Namespace, known: list[Row], runs: Runs) -> Iterator[Row]:
    """The rows that `known` lacks, as they are evaluated."""
    for model, masked in itertools.product(arguments.models, (False, True)):
        run = runs.of(model)
        key = _place(arguments, runs, model, masked) | {"run": run.name, "config": fingerprint(run.name)}
        if not is_known(known, key):
            yield key | _evaluate(arguments, runs, run, model, masked)


def gains(arguments: argparse.Namespace, known: list[Row], runs: Runs) -> Iterator[Row]:
    """SFT and RL against the better of both TIGERs, on the same users, where that is not `known`.

    Both have to be judged: the better one of one is no comparison.
    """
    for masked in (False, True):
        judged = {}
        for other, stage in ((runs.baselines, "tiger"), (runs.plain, "direct")):
            path = other.ranks_path(result_name(stage, arguments.split, masked)).with_suffix(".json")
            if path.is_file():
                judged[f"{other.name}:{stage}"] = json.loads(path.read_text())["ndcg@10"]
        if len(judged) < 2:
            continue
        tiger = max(judged, key=lambda one: judged[one])
        for (of, prefix), stage in itertools.product(((runs.main, ""), (runs.plain, PLAIN)), ("sft", "rl")):
            if of.ranks_path(result_name(stage, arguments.split, masked)).is_file():
                place = _place(arguments, runs, f"{prefix}{stage} over TIGER", masked)
                place |= {"stage": stage, "against": tiger, **_chosen(of.stage_result(stage))}
                found = result("compare", tiger, f"{of.name}:{stage}", *_setting(arguments, masked))
                row = place | found["measures"]["ndcg@10"]
                if not is_known(known, row):
                    yield row | _made(arguments, runs.seed)


def _gains_path(arguments: argparse.Namespace) -> Path:
    return arguments.out.with_name(f"{arguments.out.stem}_gains.json")


def _replace(path: Path, rows: list[Row], row: Row) -> list[Row]:
    """`rows` with `row` instead of what stood in its place, written to `path`."""
    place = [row[field] for field in PLACE]
    rows = [one for one in rows if [one[field] for field in PLACE] != place]
    add_row(path, rows, row)
    return rows


def _place(arguments: argparse.Namespace, runs: Runs, model: str, masked: bool) -> Row:
    values = (arguments.set, model, runs.seed, masked, arguments.split)
    return dict(zip(PLACE, values, strict=True))


def _setting(arguments: argparse.Namespace, masked: bool) -> list[str]:
    """Options of `evaluate` and `compare`."""
    return ["--split", arguments.split, *(["--mask-history"] if masked else [])]


def _made(arguments: argparse.Namespace, seed: int) -> Row:
    """How a row is made again, and what on."""
    words = ["--set", arguments.set, "--seeds", str(seed)]
    words += ["--split", arguments.split] if arguments.split != "test" else []
    words += ["--plain", *arguments.plain] if arguments.plain != plain_settings(arguments.set) else []
    command_line = f"python benchmarks/science.py {shlex.join(words)}"
    return {"command": command_line, "hardware": arguments.hardware or machine()}


def plain_settings(name: str) -> list[str]:
    """Settings of a set's run without evidence."""
    settings = dict(setting.split("=") for setting in (*PLAIN_SETTINGS, *PLAIN_OF_SET.get(name, ())))
    return [f"{key}={value}" for key, value in settings.items()]


def _config(name: str) -> str:
    return f"configs/{name.lower()}.yaml"


def _refuse_another(run: RunDir, name: str, settings: list[str]) -> None:
    """Exit where what `run` has finished was trained with other settings than the command line says."""
    if not run.path.exists():
        return
    wanted = load_config(ROOT / _config(name), settings)
    wrong = {
        key
        for stage in run.finished()
        for key in differing_keys(run.config().of_stage(stage), wanted.of_stage(stage))
        # `precision: auto` is settled by the machine that trains.
        if key.startswith(DECODED) or (decides(key, [stage]) and not key.startswith("model.precision:"))
    }
    if wrong:
        sys.exit(
            f"run {run.name} was trained with other settings than {_config(name)} has; move it away, or:\n  "
            + "\n  ".join(sorted(wrong))
        )


def _last_stage(models: list[str], plain: bool) -> str:
    """The last stage that the chosen models need of the run with evidence, or without; ids, at least."""
    wanted = {MODELS[model][1] for model in models if model.startswith(PLAIN) == plain}
    return [stage for stage in STAGES if stage in wanted or stage == STAGES[0]][-1]


def _train_stages(run: RunDir, last: str, settings: list[str], *begin: str) -> None:
    """Train `run` up to stage `last`; begun, if it has to be, with `settings` and as `begin` says."""
    if run.stage_result(last):
        return
    if not run.path.exists() and begin:
        # What another run has is taken from it, up to the first stage that differs.
        command("train", "--stage", "pretrain", "--run", run.name, *begin, *options(settings))
    how = ["--resume"] if run.path.exists() else options(settings)
    if not run.stage_result(last):
        command("train", "--stage", last, "--run", run.name, *how)


def _chosen(trained: StageResult | None) -> Row:
    """At which step validation was best; 0 of RL: before the first, so that the weights are those of SFT."""
    return {"best_step": trained.metrics.get("best_step")} if trained else {}


def _evaluate(arguments: argparse.Namespace, runs: Runs, run: RunDir, model: str, masked: bool) -> Row:
    found = result("evaluate", run.name, "--stage", model.removeprefix(PLAIN), *_setting(arguments, masked))
    trained = MODELS[model][1]
    stage = run.stage_result(trained) if trained else None
    return {
        "stage": MODELS[model][1] or model,
        **{key: found[key] for measure in MEASURES for key in (measure, f"{measure}_ci")},
        "users": found["users"],
        "minutes": round(stage.seconds / 60, 1) if stage else 0.0,
        **_chosen(stage),
        **_made(arguments, runs.seed),
    }


def table(rows: list[Row], arguments: argparse.Namespace) -> Iterator[str]:
    """Lines of Markdown: means over seeds; in brackets the 95 % interval of a seed, or the range of several."""
    yield "| model | R@10 | N@10 | R@10 masked | N@10 masked | seeds | minutes |"
    yield "|---|---|---|---|---|---|---|"
    for model, (title, _) in MODELS.items():
        own = [row for row in _chosen_rows(rows, arguments) if row["model"] == model]
        if not own:
            continue
        cells = [
            _cell([row for row in own if row["masked"] == masked], measure)
            for masked in (False, True)
            for measure in ("recall@10", "ndcg@10")
        ]
        seeds = len({row["seed"] for row in own})
        minutes = sum(row["minutes"] for row in own) / len(own)
        kept = f" ({AS_SFT})" if all(_is_sft(row) for row in own) else ""
        yield f"| {title}{kept} | {' | '.join(cells)} | {seeds} | {minutes:.0f} |"


def gains_table(rows: list[Row], arguments: argparse.Namespace) -> Iterator[str]:
    """Lines of Markdown: how far SFT and RL are ahead of the better TIGER, a line a seed."""
    found = _chosen_rows(rows, arguments)
    if found:
        yield ""
        yield "| | seed | history | TIGER | N@10 | difference | relative | p |"
        yield "|---|---|---|---|---|---|---|---|"
    for row in found:
        history = "masked" if row["masked"] else "allowed"
        difference = f"{signed(row['difference'])} {interval(row['difference_ci'], signed)}"
        title = f"{_gain_title(row)} | {row['seed']} | {history}"
        yield (
            f"| {title} | {four(row['a'])} | {four(row['b'])} | {difference} | "
            f"{100 * row['relative']:+.0f} % | {chance(row['p'])} |"
        )


def _chosen_rows(rows: list[Row], arguments: argparse.Namespace) -> list[Row]:
    """Those of the set and the split."""
    return [row for row in rows if (row["set"], row["split"]) == (arguments.set, arguments.split)]


def _is_sft(row: Row) -> bool:
    return row["stage"] == "rl" and row.get("best_step") == 0


def _gain_title(row: Row) -> str:
    title = row["model"].removeprefix(PLAIN)
    kept = f" ({AS_SFT})" if _is_sft(row) else ""
    evidence = ", both without evidence" if title != row["model"] else ""
    return f"{title}{evidence}{kept}"


def _cell(rows: list[Row], measure: str) -> str:
    if not rows:
        return ""
    values = [row[measure] for row in rows]
    low, high = rows[0][f"{measure}_ci"] if len(rows) == 1 else (min(values), max(values))
    return f"{four(sum(values) / len(values))} {interval((low, high))}"


def _arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set", required=True, help="a data set that configs/ has a file of: Beauty, Scientific"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--split", choices=("test", "valid"), default="test", help="valid, to choose settings by"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--plain",
        nargs="+",
        metavar="KEY=VALUE",
        help="settings of the run without evidence, in place of those that the set has",
    )
    parser.add_argument("--hardware", default="", help="what this runs on, for the record")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "science.json")
    parser.add_argument("--table", action="store_true", help="measure nothing; print the rows there are")
    arguments = parser.parse_args(words)
    arguments.plain = arguments.plain or plain_settings(arguments.set)
    return arguments


if __name__ == "__main__":
    main()
