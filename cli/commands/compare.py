"""compare: whether the difference between two results is more than chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.options import JsonOption, examples
from cli.commands.results import Judged, Split
from cli.output import chance, decoded, emit_json, four, interval, note, show, signed, table, title_of
from cli.workspace import pick_run
from streamrec_dist.errors import UsageError

if TYPE_CHECKING:
    from streamrec_dist.ranks import TargetRanks

RESULT = "RUN, RUN:STAGE, or a Parquet file of results/"


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", show_default=False, help=f"What to compare with: {RESULT}.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", show_default=False, help=f"What is compared: {RESULT}.")],
    split: Annotated[Split, typer.Option(help="The held-out items; a file says its own.")] = Split.valid,
    mask_history: Annotated[
        bool, typer.Option("--mask-history", help="The results with the history masked; a file says its own.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far B is ahead of A on the same users, and whether that may be chance.

    Reads what `evaluate` has written: the rank of every target. RUN alone is its last finished stage, :STAGE one of
    the newest run.
    """
    from streamrec_dist.comparison import compare as compared

    first, second = (_ranks(name, split.value, mask_history) for name in (a, b))
    result = compared(first, second)
    if as_json:
        emit_json(result)
    else:
        _show(result)


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "streamrec-dist compare demo:counting demo:rl --split test",
            "streamrec-dist compare old:rl new:rl --split test --mask-history --json",
            "streamrec-dist compare demo:rl runs/demo/results/rl-valid-sampled8-beam20.parquet",
        )
    )(compare)


def _ranks(name: str, split: str, masked: bool) -> TargetRanks:
    """The ranks that `name` means. Raises UsageError with the line to type where there are none."""
    from streamrec_dist.ranks import load_ranks
    from streamrec_dist.stages.evaluate import result_name

    if name.endswith(".parquet"):
        return load_ranks(Path(name))
    run_name, _, stage = name.partition(":")
    if stage and stage not in list(Judged):
        raise UsageError(f"{name}: no stage or baseline {stage!r}; expected one of {', '.join(Judged)}")
    run = pick_run(run_name or None)
    stage = stage or run.last_model()
    path = run.ranks_path(result_name(stage, split, masked))
    if not path.is_file():
        how = "masked" if masked else "allowed"
        line = f"streamrec-dist evaluate {run.name} --stage {stage} --split {split}"
        raise UsageError(
            f"run {run.name} has no ranks of stage {stage} on the {split} split with the history {how}; make them "
            f"with: {line}{' --mask-history' if masked else ''}"
        )
    return load_ranks(path)


def _show(result: dict[str, Any]) -> None:
    a, b = (_label(result[side]) for side in "ab")
    masked = "masked" if result["masked"] else "allowed"
    kind = " - SYNTHETIC demo data" if result["a"].get("synthetic") else ""
    title = (
        f"A = {a}, B = {b}; {result['split']} split, {result['users']} users, history {masked}, "
        f"95 % intervals of B - A{kind}"
    )
    rows = [_row(name, one) for name, one in result["measures"].items()]
    columns = ["", "A", "B", "B - A", "", "relative", "p", "better", "worse", "equal"]
    show(table(title, columns, rows))
    for text in result["notes"]:
        note(text)
    note("better, worse and equal count users; p is of a paired randomisation test of one measure by itself")


def _label(about: dict[str, Any]) -> str:
    """Such as `demo:rl (greedy thoughts, beam 20)`."""
    how = f" ({decoded(about['decoding'])})" if about["decoding"] else ""
    return f"{about['run']}:{about['stage']}{how}"


def _row(name: str, one: dict[str, Any]) -> list[str]:
    relative = "-" if one["relative"] is None else f"{100 * one['relative']:+.1f} %"
    counts = [str(one[key]) for key in ("wins", "losses", "ties")]
    difference = [signed(one["difference"]), interval(one["difference_ci"], signed)]
    return [title_of(name), four(one["a"]), four(one["b"]), *difference, relative, chance(one["p"]), *counts]
