"""ids report, ids extend: semantic ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.commands.options import JsonOption, RunArgument, examples
from cli.output import emit_json, four, note, show, table
from cli.workspace import pick_run
from streamrec_dist.errors import UsageError

app = typer.Typer(help="Look at semantic ids, and give new items theirs.", no_args_is_help=True)


@app.callback()
def ids() -> None:
    """Look at semantic ids, and give new items theirs."""


@app.command(
    epilog=examples(
        "streamrec-dist ids report",
        "streamrec-dist ids report --file ../data/Beauty.index.json.gz --codes 256",
        "streamrec-dist ids report demo --file other-ids.parquet",
    )
)
def report(
    run: RunArgument = None,
    file: Annotated[
        Path | None,
        typer.Option(
            show_default=False,
            help="A file of ids, ours or an index.json; with a run, its text neighbours are compared too.",
        ),
    ] = None,
    codes: Annotated[int, typer.Option(min=2, help="Codes at each level, for a file.")] = 256,
    as_json: JsonOption = False,
) -> None:
    """Say how good ids are: codes used, collisions, and whether items with like texts have like ids."""
    from streamrec_dist.items.report import check_report

    if file is None:
        result = pick_run(run).stage_result("tokenize")
        if result is None:
            raise UsageError("that run has not finished stage tokenize yet")
        body = result.metrics
        check_report(body)
    else:
        body = _report_of_file(file, codes, run)
    if as_json:
        emit_json(body)
    else:
        _show(body)


@app.command(
    epilog=examples(
        "streamrec-dist ids extend demo --data prepared/more --out ids.parquet",
        "streamrec-dist ids extend demo --data prepared/still-more --ids ids.parquet --out ids-2.parquet",
    ),
)
def extend(
    run: RunArgument = None,
    data: Annotated[Path, typer.Option(help="Prepared data with items that the run does not know.")] = Path(
        "prepared"
    ),
    out: Annotated[
        Path, typer.Option(help="The file of ids to write; a new run takes it as items.ids.")
    ] = Path("ids.parquet"),
    ids: Annotated[
        Path | None,
        typer.Option(
            show_default=False,
            help="A file that an earlier `ids extend` of this run wrote: the items in it keep their ids.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give new items ids without training anything and without changing anybody's id."""
    from streamrec_dist.data.files import load_dataset
    from streamrec_dist.items.foreign_ids import read_ids
    from streamrec_dist.items.id_file import save_ids
    from streamrec_dist.stages.extend import extend_to
    from streamrec_dist.stages.run_store import RunStore

    directory = pick_run(run)
    dataset = load_dataset(data)
    found, new = extend_to(RunStore(directory.path), dataset, read_ids(ids) if ids else None)
    save_ids(out, dataset.item_ids, found, directory.config().items.codes)
    note(f"wrote {out}: {len(found)} ids, {new} of them for items that had none")
    note(f"next: set data.path: {data} and items.ids: {out} in cluster.yaml and train a new run")
    if as_json:
        emit_json({"out": str(out), "items": len(found), "new": new})


def _report_of_file(file: Path, codes_per_level: int, run: str | None) -> dict[str, Any]:
    from streamrec_dist.items.foreign_ids import read_ids
    from streamrec_dist.items.report import id_report, prefix_sharing
    from streamrec_dist.stages.run_store import RunStore

    given = read_ids(file)
    codes = given.codes
    if codes.max() >= codes_per_level:
        raise UsageError(f"{file}: has the code {codes.max()}; give --codes {codes.max() + 1} or more")
    about: dict[str, Any] = {"resolved": True}
    if run is not None:
        store = RunStore(pick_run(run).path)
        codes = given.of(store.dataset().item_ids)
        about["prefixes"] = prefix_sharing(codes, store.neighbours(len(codes)))
    return id_report(codes, codes, codes_per_level) | about


def _show(body: dict[str, Any]) -> None:
    levels = range(body["levels"])
    rows: list[tuple[str, ...]] = [
        ("codes used", *(f"{count} of {body['codes']}" for count in body["used_codes"])),
        ("perplexity", *(f"{value:.0f}" for value in body["perplexity"])),
    ]
    for name, label in (("neighbours", "shared with text neighbours"), ("random", "shared with others")):
        shares = body.get("prefixes", {}).get(name)
        if shares:
            rows.append((f"prefix {label}", *(f"{100 * share:.2f} %" for share in shares)))
    show(table(f"semantic ids of {body['items']} items", ["", *(f"level {n + 1}" for n in levels)], rows))
    when = "in this file" if body.get("resolved") else "before collisions were resolved"
    facts = [
        (f"surplus items {when}", f"{body['surplus']} ({100 * body['surplus_share']:.2f} %)"),
        ("largest group of collisions", str(body["largest_group"])),
    ]
    if body.get("recon") is not None:
        facts.append(("share of the variance lost", four(body["recon"])))
    if body.get("neighbour_recall") is not None:
        facts.append(("recall of the text neighbours", f"{body['neighbour_recall']:.3f}"))
    facts += [(f"seconds: {part}", f"{seconds:.1f}") for part, seconds in body.get("seconds", {}).items()]
    show(table("", ["", ""], facts))
