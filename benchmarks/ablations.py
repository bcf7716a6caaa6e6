"""What each part of a stage is worth: the stage trained again without it, from the same run.

    python benchmarks/ablations.py --set Scientific --run scientific-1 --stage sft
    python benchmarks/ablations.py --set Scientific --run scientific-1 --stage rl --override stages.rl.steps=60
    python benchmarks/ablations.py --set Scientific --run scientific-1 --stage sft --variants "no DPO" "two passes"
    python benchmarks/ablations.py --set Scientific --run scientific-1 --stage sft --table

Every variant is a run in runs/ that takes the stages before --stage from --run. It is judged on all
validation users, the history masked, and compared with the stage as configured, on the same users. Test users
are not looked at. Rows are added to --out as they come; those that are there are not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shlex
import sys
from collections.abc import Iterator
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
from streamrec_dist.config import Config
from streamrec_dist.config_file import differing_keys
from streamrec_dist.events import EventReader
from streamrec_dist.rundir import RunDir
from streamrec_dist.types import REWARDS

USUAL = "as configured"
#: By stage: a variant's name, and what is set for it. The stage as configured comes first.
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "sft": {
        USUAL: (),
        "no DPO": ("stages.sft.dpo=0",),
        "no quantisation loss": ("stages.sft.quantisation=0",),
        "no state loss": ("stages.sft.state=0",),
        "two passes": ("stages.sft.ste=two_pass",),
        "own thoughts only": ("stages.sft.own_thoughts=1",),
        "no calibration": ("stages.sft.calibration=0",),
        "the paper's loss": ("stages.sft.own_thoughts=0", "stages.sft.annotated_items=1"),
    },
    "rl": {
        USUAL: (),
        # On the trie all samples have the format, and its reward tells none apart: so much do two trainings differ.
        **{f"no {name.replace('_', ' ')}": (f"stages.rl.rewards.{name}=0",) for name in REWARDS},
        "G = 4": ("stages.rl.group_size=4",),
        "ratio of sequences": ("stages.rl.ratio=sequence",),
        "raw likelihood": ("stages.rl.likelihood=raw",),
        "free sampling": ("stages.rl.sampling=free",),
        "trie sampling": ("stages.rl.sampling=trie",),
    },
}
#: What the last round of SFT and the last step of RL say of themselves, kept with a row.
SAID = {
    "sft": ("round", ("sampled_nll", "gold_nll", "leak", "distinct_thoughts")),
    "rl": ("step", ("reward/total", "kl", "entropy")),
}

#: Of these, what the table shows, and its heading.
SHOWN = {"sft": ("leak", "leak"), "rl": ("kl", "KL")}


def main() -> None:
    arguments = _arguments()
    rows = known_rows(arguments.out)
    if not arguments.table:
        with cluster(f"{arguments.set.lower()}.yaml"):
            for row in measure(arguments, rows):
                add_row(arguments.out, rows, row)
    print("\n".join(table(rows, arguments.run, arguments.stage, arguments.override)))


def measure(arguments: argparse.Namespace, known: list[Row]) -> Iterator[Row]:
    """The rows that `known` lacks, as they are evaluated."""
    usual = _train(arguments, USUAL, ())
    for variant in [USUAL, *_variants(arguments)]:
        overrides = VARIANTS[arguments.stage][variant]
        key = {"run": arguments.run, "stage": arguments.stage, "override": arguments.override}
        key |= {"variant": variant, "config": fingerprint(arguments.run)}
        if is_known(known, key):
            continue
        if overrides and (why := _changes_nothing(usual.config(), usual.config(overrides))):
            print(f"{variant}: {why}", file=sys.stderr)
            continue
        run = usual if variant == USUAL else _train(arguments, variant, overrides)
        judged = ("--split", "valid", "--mask-history")
        found = result("evaluate", run.name, *judged)
        row = key | {"set": arguments.set, "split": "valid", "masked": True, "settings": [*overrides]}
        row |= {name: found[name] for name in ("ndcg@10", "ndcg@10_ci", "recall@10", "users")}
        if run is not usual:
            measures = result("compare", usual.name, run.name, *judged)["measures"]
            row |= {name: measures["ndcg@10"][name] for name in ("difference", "difference_ci", "p")}
        stage = run.stage_result(arguments.stage)
        yield row | {
            "said": _said(run, arguments.stage),
            "minutes": round(stage.seconds / 60, 1) if stage else 0.0,
            "command": _command_line(arguments),
            "hardware": arguments.hardware or machine(),
        }


def _variants(arguments: argparse.Namespace) -> list[str]:
    """Those that were asked for, in the table's order; all but the usual one unless some were."""
    chosen = arguments.variants
    return [one for one in VARIANTS[arguments.stage] if one != USUAL and (not chosen or one in chosen)]


def _changes_nothing(usual: Config, variant: Config) -> str:
    """Why the stage would do what it does as configured; empty where it would not."""
    keys = [key.partition(":")[0] for key in differing_keys(usual, variant)]
    if not keys:
        return "this is how the stage is configured"
    if keys == ["stages.rl.sampling"] and usual.model.softmax == "trie":
        return "codes compete on the trie alone, so that every sample is on it"
    if keys == ["stages.sft.calibration"] and not usual.model.evidence:
        return "there is no evidence to calibrate"
    return ""


def _train(arguments: argparse.Namespace, variant: str, overrides: tuple[str, ...]) -> RunDir:
    run = RunDir(RUNS / _run_name(arguments, variant))
    if run.stage_result(arguments.stage) is None:
        begun = run.path.exists()
        settings = options([*arguments.override, *overrides])
        how = ["--resume"] if begun else ["--from", arguments.run, *settings]
        command("train", "--stage", arguments.stage, "--run", run.name, *how)
    return run


def _run_name(arguments: argparse.Namespace, variant: str) -> str:
    """One for each variant under each set of overrides, of one training of the stages before."""
    begun = f"{fingerprint(arguments.run)} {shlex.join(arguments.override)}"
    of_them = hashlib.sha256(begun.encode()).hexdigest()[:6]
    words = "-".join([arguments.run, arguments.stage, variant, of_them])
    return re.sub("[^a-z0-9]+", "-", words.lower())


def _said(run: RunDir, stage: str) -> dict[str, float | None]:
    kind, names = SAID[stage]
    events = [e for e in EventReader(run.events_path).new() if (e.kind, e.stage) == (kind, stage)]
    return {name: events[-1].metrics.get(name) for name in names}


def _command_line(arguments: argparse.Namespace) -> str:
    overrides = f" --override {shlex.join(arguments.override)}" if arguments.override else ""
    variants = f" --variants {shlex.join(arguments.variants)}" if arguments.variants else ""
    words = f"--set {arguments.set} --run {arguments.run} --stage {arguments.stage}{overrides}{variants}"
    return f"python benchmarks/ablations.py {words}"


def table(rows: list[Row], run: str, stage: str, override: list[str]) -> Iterator[str]:
    """Lines of Markdown."""
    name, title = SHOWN[stage]
    yield f"| {stage} | N@10 | against {USUAL} | p | {title} | minutes |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        if (row["run"], row["stage"], row["override"]) == (run, stage, override):
            against = " | "
            if "p" in row:
                against = f"{signed(row['difference'])} {interval(row['difference_ci'], signed)} | {chance(row['p'])}"
            score = f"{four(row['ndcg@10'])} {interval(row['ndcg@10_ci'])}"
            cells = (row["variant"], score, against, _short(row["said"].get(name)), f"{row['minutes']:.0f}")
            yield f"| {' | '.join(cells)} |"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", required=True, help="a data set that configs/ has a file of")
    parser.add_argument("--run", required=True, help="a run in runs/ that has what --stage needs")
    parser.add_argument("--stage", required=True, choices=VARIANTS)
    parser.add_argument(
        "--override", nargs="*", default=[], metavar="KEY=VALUE", help="set for every variant"
    )
    parser.add_argument(
        "--variants", nargs="+", default=[], metavar="NAME", help="these and the usual one only"
    )
    parser.add_argument("--hardware", default="", help="what this runs on, for the record")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ablations.json")
    parser.add_argument("--table", action="store_true", help="measure nothing; print the rows there are")
    arguments = parser.parse_args()
    if unknown := set(arguments.variants) - set(VARIANTS[arguments.stage]):
        parser.error(
            f"--variants {', '.join(sorted(unknown))}: there are {', '.join(VARIANTS[arguments.stage])}"
        )
    return arguments


if __name__ == "__main__":
    main()
