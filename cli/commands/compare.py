"""compare: whether the differences between results are more than chance, and how their runs were told to differ."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cli.commands.options import JsonOption, examples
from cli.commands.results import Judged, Split
from cli.output import (
    chance,
    clean,
    decoded,
    emit_json,
    four,
    interval,
    note,
    show,
    signed,
    span,
    table,
    title_of,
)
from cli.workspace import pick_run
from streamrec_dist.errors import UsageError

if TYPE_CHECKING:
    from streamrec_dist.ranks import TargetRanks
    from streamrec_dist.rundir import RunDir

#: What results are called in a table.
LETTERS = string.ascii_uppercase
#: Below this p a difference is marked.
LEVEL = 0.05
RESULT = "RUN, RUN:STAGE, or a Parquet file of results/"


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...",
            show_default=False,
            help=f"What to compare with, then what is compared: {RESULT}.",
        ),
    ],
    split: Annotated[Split, typer.Option(help="The held-out items; a file says its own.")] = Split.valid,
    mask_history: Annotated[
        bool, typer.Option("--mask-history", help="The results with the history masked; a file says its own.")
    ] = False,
    users: Annotated[
        int | None,
        typer.Option(
            min=1, show_default=False, help="The results of `evaluate --users N`; a file says its own."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how far B, and each further one, is ahead of A on the same users, and whether that may be chance.

    Reads what `evaluate` has written: the rank of every target. RUN alone is its last finished stage, :STAGE one of
    the newest run. Of different runs it shows what they took and the keys in which their configurations differ.
    """
    from streamrec_dist.comparison import compare_each

    if not 2 <= len(names) <= len(LETTERS):
        raise UsageError(f"{len(names)} given: two to {len(LETTERS)} can be compared, each {RESULT}")
    found = [_result(name, split.value, mask_history, users) for name in names]
    ranks = [one for one, _, _ in found]
    compared = compare_each(ranks[0], ranks[1:])
    runs = _runs([(run, stage) for _, run, stage in found])
    if as_json:
        emit_json({**compared[0], **runs} if len(compared) == 1 else {"compared": compared, **runs})
        return
    _show(compared)
    _show_runs(runs)


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "streamrec-dist compare demo:counting demo:rl --split test",
            "streamrec-dist compare base no-kl wide --split test",
            "streamrec-dist compare old:rl new:rl --split test --mask-history --json",
            "streamrec-dist compare demo:rl runs/demo/results/rl-valid-sampled8-beam20.parquet",
        )
    )(compare)


def _result(name: str, split: str, masked: bool, users: int | None) -> tuple[TargetRanks, RunDir | None, str]:
    """The ranks that `name` means, the run they are of where it is known, and the stage.

    Raises UsageError with the line to type where there are none.
    """
    from streamrec_dist.ranks import load_ranks
    from streamrec_dist.rundir import RunDir, run_exists
    from streamrec_dist.stages.evaluate import of_users, result_name

    if name.endswith(".parquet"):
        ranks, folder = load_ranks(Path(name)), Path(name).absolute().parent.parent
        lies_in = folder if run_exists(folder.parent, folder.name) else None
        return ranks, RunDir.open(lies_in) if lies_in else None, ranks.about["stage"]
    run_name, _, stage = name.partition(":")
    if stage and stage not in list(Judged):
        raise UsageError(f"{name}: no stage or baseline {stage!r}; expected one of {', '.join(Judged)}")
    run = pick_run(run_name or None)
    stage = stage or run.last_model()
    path = run.ranks_path(result_name(stage, split, masked, of_users(users)))
    if not path.is_file():
        how = "masked" if masked else "allowed"
        whose = f" of {users} users" if users else ""
        line = f"streamrec-dist evaluate {run.name} --stage {stage} --split {split}"
        line += (" --mask-history" if masked else "") + (f" --users {users}" if users else "")
        raise UsageError(
            f"run {run.name} has no ranks of stage {stage} on the {split} split with the history {how}{whose}; make "
            f"them with: {line}"
        )
    ranks = load_ranks(path)
    # A run may have been copied, or given another name.
    return replace(ranks, about={**ranks.about, "run": run.name}), run, stage


def _runs(results: Sequence[tuple[RunDir | None, str]]) -> dict[str, Any]:
    """Of results in more than one run that is at hand: the keys that differ, and what their stages came to.

    `runs` names them; `config` and `stages` have a value for each, in that order.
    """
    from streamrec_dist.config_file import differing_values

    runs: dict[Path, tuple[RunDir, str]] = {}
    for run, stage in results:
        if run is not None:
            runs.setdefault(run.path.resolve(), (run, stage))
    if len(runs) < 2:
        return {"runs": [run.name for run, _ in runs.values()], "config": {}, "stages": {}}
    found = list(runs.values())
    ended = [{name: run.stage_result(name) for name in run.finished()} for run, _ in found]
    stages = {
        name: [
            {"seconds": one.seconds, "steps": one.steps, "metrics": one.metrics} if one else None
            for one in (stages.get(name) for stages in ended)
        ]
        for name in dict.fromkeys(name for stages in ended for name in stages)
    }
    config = differing_values([run.config() for run, _ in found])
    return {"runs": [run.name for run, _ in found], "config": config, "stages": stages}


def _show(compared: Sequence[dict[str, Any]]) -> None:
    first, several = compared[0], len(compared) > 1
    sides = [first["a"], *(one["b"] for one in compared)]
    named = [f"{letter} = {_label(side)}" for letter, side in zip(LETTERS, sides, strict=False)]
    masked = "masked" if first["masked"] else "allowed"
    kind = " - SYNTHETIC demo data" if first["a"].get("synthetic") else ""
    about = f"{first['split']} split, {first['users']} users, history {masked}"
    if several:
        _head("\n".join([*named, f"{about}{kind}"]))
        _show_values(compared)
    for letter, one in zip(LETTERS[1:], compared, strict=False):
        title = "" if several else f"{', '.join(named)}; {about}, 95 % intervals of B - A{kind}"
        if several:
            _head(f"\n{letter} against A, with 95 % intervals of the difference")
        rows = [_row(name, found, several) for name, found in one["measures"].items()]
        adjusted = ["p, Holm"] if several else []
        columns = [
            "",
            "A",
            letter,
            f"{letter} - A",
            "",
            "relative",
            "p",
            *adjusted,
            "better",
            "worse",
            "equal",
        ]
        show(table(title, columns, rows))
    for text in dict.fromkeys(text for one in compared for text in one["notes"]):
        note(text)
    note("better, worse and equal count users; p is of a paired randomisation test of one measure by itself")
    if several:
        note(f"p, Holm: adjusted for the {len(compared)} comparisons of that measure")


def _head(text: str) -> None:
    """A title that may be wider than the table below it."""
    show(Text(clean(text), style="italic"))


def _show_values(compared: Sequence[dict[str, Any]]) -> None:
    """All models beside one another, with a star where one differs from A by more than chance."""
    rows = []
    for name in compared[0]["measures"]:
        found = [one["measures"][name] for one in compared]
        cells = [four(one["b"]) + ("*" if one["p_holm"] < LEVEL else " ") for one in found]
        rows.append([title_of(name), four(found[0]["a"]) + " ", *cells])
    # A cell that ends in a space keeps it: numbers stand below one another.
    aligned = [[row[0], *map(Text, row[1:])] for row in rows]
    show(table("", ["", *LETTERS[: len(compared) + 1]], aligned))
    note(f"*: differs from A, p below {four(LEVEL).rstrip('0')} after Holm's adjustment")


def _show_runs(runs: dict[str, Any]) -> None:
    from streamrec_dist.config_file import as_written

    if len(runs["runs"]) < 2:
        return
    rows = [
        [key, *("-" if value is None else as_written(value) for value in values)]
        for key, values in runs["config"].items()
    ]
    if rows:
        _head("\nconfiguration: the keys that differ")
        show(table("", ["", *runs["runs"]], rows))
    else:
        note("the configurations of these runs are equal")
    took = [[name, *(_took(one) for one in values)] for name, values in runs["stages"].items()]
    _head("\nstages: time, and validation NDCG@10 of the weights that were kept")
    show(table("", ["", *runs["runs"]], took))


def _took(one: dict[str, Any] | None) -> str:
    if one is None:
        return "-"
    value = one["metrics"].get("ndcg@10")
    return span(one["seconds"]) + (f", {four(value)}" if isinstance(value, int | float) else "")


def _label(about: dict[str, Any]) -> str:
    """Such as `demo:rl (greedy thoughts, beam 20)`."""
    how = f" ({decoded(about['decoding'])})" if about["decoding"] else ""
    return f"{about['run']}:{about['stage']}{how}"


def _row(name: str, one: dict[str, Any], several: bool) -> list[str]:
    relative = "-" if one["relative"] is None else f"{100 * one['relative']:+.1f} %"
    counts = [str(one[key]) for key in ("wins", "losses", "ties")]
    difference = [signed(one["difference"]), interval(one["difference_ci"], signed)]
    p = [chance(one["p"]), *([chance(one["p_holm"])] if several else [])]
    return [title_of(name), four(one["a"]), four(one["b"]), *difference, relative, *p, *counts]
