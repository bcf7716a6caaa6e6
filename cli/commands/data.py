"""data: preparing data sets, and looking at them."""

from __future__ import annotations

from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.fetch import fetch
from cli.commands.options import JsonOption, examples
from cli.output import emit_json, note, show, table
from streamrec_dist.data.formats import DEMO, FORMATS
from streamrec_dist.errors import UsageError

if TYPE_CHECKING:
    from streamrec_dist.data.dataset import Dataset
    from streamrec_dist.data.recipes import Recipe

app = typer.Typer(help="Read and check data sets.", no_args_is_help=True)

#: What files can be in; the demo has none.
READABLE = [name for name in FORMATS if name != DEMO]


class OnBadRecord(StrEnum):
    """What to do about a record that cannot be used."""

    stop = "stop"
    skip = "skip"


@app.callback()
def data() -> None:
    """Read and check data sets."""


@app.command(
    epilog=examples(
        "streamrec-dist data prepare my-shop --format csv --out prepared/my-shop",
        "streamrec-dist data prepare my-shop --format csv --user-core 5 --item-core 5 --out prepared/my-shop",
        "streamrec-dist data prepare raw/software --recipe rearec/software --out prepared/software",
    )
)
def prepare(
    path: Annotated[Path, typer.Argument(help="The folder with the files.")],
    out: Annotated[Path, typer.Option(help="Where the prepared data go.")],
    layout: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="|".join(READABLE),
            show_default=False,
            help="How the files are laid out; default: as the recipe says.",
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(show_default=False, help="A filter and a split by name; see `data list`.")
    ] = None,
    user_core: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Keep users with this many interactions.")
    ] = None,
    item_core: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Keep items with this many interactions.")
    ] = None,
    min_rating: Annotated[
        float | None, typer.Option(show_default=False, help="Count only interactions rated above this.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            metavar="leave-one-out|T1,T2",
            help="The last two items of each user, or the moments at which validation and test begin "
            "(ms since 1970, or dates).",
        ),
    ] = None,
    on_error: Annotated[
        OnBadRecord, typer.Option(help="End at the first bad record, or leave bad ones out and count them.")
    ] = OnBadRecord.stop,
    as_json: JsonOption = False,
) -> None:
    """Check, filter and split a data set, and write it in a form that training opens at once."""
    from streamrec_dist.data.prepare import prepare as prepare_dataset

    changes = {"user_core": user_core, "item_core": item_core, "min_rating": min_rating, "split": split}
    chosen = _recipe(recipe, layout, {name: value for name, value in changes.items() if value is not None})
    dataset = prepare_dataset(
        path, chosen.format, out, recipe=chosen, on_error=on_error.value, say=lambda part: note(f"{part} ...")
    )
    note(f"wrote {out}")
    differences = chosen.expected.differences(dataset.figures) if chosen.expected else {}
    if as_json:
        expected = {name: counts[0] for name, counts in differences.items()}
        emit_json({"out": str(out), "expected": expected or None, **_about(dataset)})
        return
    show(table(dataset.name, ["", ""], _lines(_about(dataset)), left=2))
    if differences:
        counts = (
            (name, f"{one:,}", f"{two:,}", f"{two - one:+,}") for name, (one, two) in differences.items()
        )
        show(table(f"{recipe}: the paper's counts", ["", "paper", "here", "difference"], counts))
        if chosen.note:
            note(chosen.note)


@app.command(
    epilog=examples(
        "streamrec-dist data describe prepared/my-shop",
        "streamrec-dist data describe prepared/my-shop --verify --json",
    )
)
def describe(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A folder made by `data prepare`.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all of it and compare its content hash.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what is in a prepared data set, how it was made, and what was wrong with its source."""
    from streamrec_dist.data.files import load_dataset

    dataset = load_dataset(path, verify)
    about = _about(dataset)
    if as_json:
        emit_json({"path": str(path), "verified": verify, **about})
        return
    show(table(dataset.name, ["", ""], _lines(about), left=2))
    for example in dataset.examples:
        note(f"left out: {example}")
    note(
        "the content is what was prepared"
        if verify
        else "sizes and layout are right; --verify reads the content"
    )


@app.command("list", epilog=examples("streamrec-dist data list", "streamrec-dist data list --json"))
def list_sets(as_json: JsonOption = False) -> None:
    """Name the data sets with a recipe, and say which can be fetched."""
    from streamrec_dist.data.known import known_sets

    known = known_sets()
    if as_json:
        emit_json({"sets": [asdict(one) for one in known], "formats": READABLE})
        return
    recipes = [
        (one.name, one.format, one.filter, one.split, "yes" if one.fetch else "", one.max_history or "")
        for one in known
        if one.name != one.raw
    ]
    public = [(one.name, one.format, "yes" if one.fetch else "") for one in known if one.name == one.raw]
    for drawn in (
        table("recipes", ["name", "format", "filter", "split", "fetch", "history"], recipes, left=5),
        table("public data sets", ["name", "format", "fetch"], public, left=3),
    ):
        # Names are there to be copied: where the terminal is narrow, the other columns wrap.
        drawn.columns[0].no_wrap = True
        show(drawn)
    note(f"formats of your own files: {', '.join(READABLE)}; see `streamrec-dist data prepare --help`")


app.command(
    epilog=examples(
        "streamrec-dist data fetch movielens/1m",
        "streamrec-dist data fetch amazon2023/musical-instruments-5core --out raw/instruments",
    )
)(fetch)


def _recipe(name: str | None, layout: str | None, changes: dict[str, Any]) -> Recipe:
    """The recipe of this name, or a plain one, with what the command line changes."""
    from streamrec_dist.data.recipes import Recipe, named
    from streamrec_dist.data.split import Split

    if name is None and layout is None:
        raise UsageError("give --format F, or --recipe NAME (see `streamrec-dist data list`)")
    base = named(name) if name else Recipe(layout or "")
    if "split" in changes:
        changes["split"] = Split.parse(changes["split"])
    chosen = replace(base, **changes, format=layout or base.format)
    if chosen == base:
        return base
    # It is another recipe then, or one for other data, and the paper's counts are not to be expected of it.
    return replace(chosen, name=f"{name} (changed)" if name else None, expected=None)


def _about(dataset: Dataset) -> dict[str, Any]:
    return {**dataset.describe(), "recipe": dict(dataset.recipe), "content_hash": dataset.content_hash}


def _lines(about: dict[str, Any]) -> list[tuple[str, str]]:
    """One line a value; a share as a percentage, a part of several values on one line."""
    lines = []
    for key, value in about.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {part}" for name, part in value.items() if part is not None)
        elif isinstance(value, float) and key.endswith(("_share", "_coverage")):
            value = f"{value:.1%}"
        elif isinstance(value, float):
            value = f"{value:.2f}"
        elif isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        lines.append((key.replace("_", " "), "-" if value is None else str(value)))
    return lines
