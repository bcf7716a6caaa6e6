"""evaluate, recommend: what a run has learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Annotated, Any

import typer
from rich.table import Table

from cli import cluster
from cli.commands.options import (
    BeamOption,
    JsonOption,
    RunArgument,
    SamplesOption,
    Thoughts,
    ThoughtsOption,
    examples,
)
from cli.output import clean, decoded, emit_json, measured, measures, note, show, table
from cli.workspace import living_cluster, pick_run
from streamrec_dist.errors import UsageError


class Judged(StrEnum):
    """What can be evaluated."""

    counting = "counting"
    popularity = "popularity"
    sasrec = "sasrec"
    sasrec_bce = "sasrec-bce"
    gru4rec = "gru4rec"
    tiger = "tiger"
    retrieve = "retrieve"
    direct = "direct"
    pretrain = "pretrain"
    sft = "sft"
    rl = "rl"


class Model(StrEnum):
    """What can recommend."""

    direct = "direct"
    pretrain = "pretrain"
    sft = "sft"
    rl = "rl"


class Split(StrEnum):
    """Which held-out item is predicted."""

    valid = "valid"
    test = "test"


class By(StrEnum):
    """What targets can be grouped by."""

    history = "history"
    popularity = "popularity"
    cold = "cold"


def evaluate(
    run: RunArgument = None,
    stage: Annotated[
        Judged | None,
        typer.Option(show_default=False, help="What to evaluate; default: the last finished stage."),
    ] = None,
    split: Annotated[Split, typer.Option(help="The held-out items to predict.")] = Split.valid,
    mask_history: Annotated[
        bool, typer.Option("--mask-history", help="Never rank an item the user has had.")
    ] = False,
    users: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="Evaluate this many users only; default: all."),
    ] = None,
    thoughts: ThoughtsOption = None,
    samples: SamplesOption = None,
    beam: BeamOption = None,
    by: Annotated[
        list[By] | None,
        typer.Option(
            show_default=False,
            help="Show results by length of history, quarter of item popularity, or for items that training never "
            "has; may be repeated.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the whole catalogue for each user and compare with the counting baseline."""
    directory = pick_run(run)
    name = stage.value if stage else directory.last_model()
    record = living_cluster()
    if record:
        note(f"evaluating {name} of run {directory.name} on the cluster at {record.address} ...")
        cluster.connect(record)
    else:
        note(f"evaluating {name} of run {directory.name} in this process (no cluster is up) ...")

    from cli.decoding import DecodingOptions
    from cli.launch import evaluate_run

    options = DecodingOptions(_value(thoughts), samples, beam)
    result = evaluate_run(
        directory, name, split.value, mask_history, users, record is not None, _Progress(), options
    )
    cluster.disconnect()
    if as_json:
        emit_json(result)
    else:
        models = [("counting baseline", result["counting"]), (name, result)]
        show(measures(_title(result), models))
        for kind in by or ():
            show(_breakdown(kind, models))
        note(
            f"the same with history masked: --mask-history   by groups: --by history   as JSON: --json   "
            f"results: {directory.path}/results"
        )


def recommend(
    run: RunArgument = None,
    user: Annotated[str | None, typer.Option(metavar="U", help="A user of the data set.")] = None,
    history: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Items, the oldest first.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many items.")] = 10,
    stage: Annotated[
        Model | None, typer.Option(show_default=False, help="Whose model; default: the last finished stage.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the thoughts that lead to the first item too.")
    ] = False,
    thoughts: ThoughtsOption = None,
    samples: SamplesOption = None,
    beam: BeamOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend items to a user of the data set, or to anyone with a given history."""
    if (user is None) == (history is None):
        raise UsageError("recommend needs one of --user U and --history ID,ID,...")
    items = [item.strip() for item in history.split(",") if item.strip()] if history is not None else None
    if items == []:
        raise UsageError("--history is empty; give item ids, such as --history item12,item7")
    directory = pick_run(run)

    from cli.decoding import DecodingOptions
    from cli.launch import recommend as recommend_items

    options = DecodingOptions(_value(thoughts), samples, beam)
    result = recommend_items(directory, user, items, k, stage.value if stage else None, options)
    if not explain:
        result = {key: value for key, value in result.items() if key != "thoughts"}
    if as_json:
        emit_json(result)
    else:
        _show_recommendation(result)


BREAKDOWNS = {
    By.history: "by events before the target",
    By.popularity: "by quarter of the items (and their interactions in training), least popular first",
    By.cold: "targets that the training part has, and that it never has",
}


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "streamrec-dist evaluate",
            "streamrec-dist evaluate demo --stage direct --split test --mask-history",
            "streamrec-dist evaluate demo --split test --json",
            "streamrec-dist evaluate demo --by history --by cold",
            "streamrec-dist evaluate demo --thoughts sampled --samples 16 --beam 50",
        )
    )(evaluate)
    app.command(
        epilog=examples(
            "streamrec-dist recommend --user user12 --explain",
            'streamrec-dist recommend demo --history "item12,item7" -k 5 --thoughts beam',
        )
    )(recommend)


def _value(choice: Thoughts | None) -> str | None:
    return choice.value if choice else None


class _Progress:
    """Says now and then how far an evaluation is."""

    def __init__(self) -> None:
        self.tenth = 0

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 0
        if tenth > self.tenth:
            self.tenth = tenth
            note(f"  {done} of {total} targets")


def _title(result: dict[str, Any]) -> str:
    kind = " - SYNTHETIC demo data" if result.get("synthetic") else ""
    masked = "masked" if result["masked"] else "allowed"
    how = f"{decoded(result['decoding'])}, " if result["decoding"] else ""
    return (
        f"run {result['run']}, {result['split']} split, {result['users']} users, history {masked}, "
        f"{how}95 % intervals{kind}"
    )


def _breakdown(by: By, models: list[tuple[str, dict[str, Any]]]) -> Table:
    """One line a group of targets: how many, and each model's measures."""
    columns = [f"{name} {short}" for short in ("R@10", "N@10") for name, _ in models]
    rows = []
    for group, counts in models[0][1]["by"][by.value].items():
        grouped = [result["by"][by.value][group] for _, result in models]
        cells = [measured(one, measure) for measure in ("recall@10", "ndcg@10") for one in grouped]
        rows.append([_group_label(group, counts), counts["targets"], *cells])
    return table(BREAKDOWNS[by], ["", "targets", *columns], rows)


def _group_label(group: str, counts: dict[str, Any]) -> str:
    """The group's name and, of a quarter of the items, how often training has them."""
    if "interactions" not in counts:
        return group
    first, last = counts["interactions"]
    return f"{group} ({first}+)" if last is None else f"{group} ({first}-{last})"


def _thoughts(thoughts: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The numbers, from 1, of the first and the last of thoughts that are the same one after the other."""
    first = 1
    for _, same in groupby(thoughts):
        alike = list(same)
        yield first, first + len(alike) - 1, alike[0]
        first += len(alike)


def _show_recommendation(result: dict[str, Any]) -> None:
    history = [(entry["item"], entry["title"]) for entry in result["history"]]
    kind = " - SYNTHETIC demo data" if result["synthetic"] else ""
    show(table(f"history, oldest first{kind}", ["item", "title"], history, left=2))
    for first, last, thought in _thoughts(result.get("thoughts", ())):
        numbers = f"thought {first}" if first == last else f"thoughts {first} to {last}"
        print(clean(f"{numbers}: {thought['token']}, near {'; '.join(thought['nearest'])}"))
    items = [(row["rank"], row["item"], row["title"], f"{row['score']:.3f}") for row in result["items"]]
    title = f"recommended by {result['stage']}, {decoded(result['decoding'])}{kind}"
    show(table(title, ["", "item", "title", "score"], items, left=3))
