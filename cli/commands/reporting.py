"""report, plot: what a run did, as a page, as pictures, as lines in the terminal."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.commands.options import JsonOption, RunArgument, examples
from cli.dashboard.marks import number
from cli.output import emit_json, note, show, table
from cli.workspace import pick_run, runs_folder
from streamrec_dist.errors import UsageError

if TYPE_CHECKING:
    from cli.curves import Curve
    from streamrec_dist.rundir import RunDir

PICTURES = (".png", ".svg", ".pdf")
#: Points of a curve in the terminal, in a picture, and in JSON.
DRAWN, EXACT = 500, 1024
HEIGHT = 12
CLOSE = 6


def report(
    run: RunArgument = None,
    shown: Annotated[
        int,
        typer.Option(
            "--examples",
            min=0,
            max=50,
            help="Recommendations that are shown with their thoughts, made in this process; 0: none.",
        ),
    ] = 4,
    as_json: JsonOption = False,
) -> None:
    """Write report/index.html of a run: what it did and what it came to, in one file, and its charts as PNG files.

    The page needs nothing else and no network: it can be sent as it is.
    """
    directory = pick_run(run)
    note(f"making the report of run {directory.name} ...")

    from cli.report.making import make_report

    page, notes = make_report(directory, shown)
    for text in notes:
        note(f"left out: {text}")
    if as_json:
        pictures = sorted(str(path) for path in page.parent.glob("*.png"))
        emit_json({"run": directory.name, "report": str(page), "pictures": pictures, "left_out": notes})
    else:
        print(page)


def plot(
    run: RunArgument = None,
    metrics: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[METRIC]...",
            show_default=False,
            help="What to draw, also by patterns such as 'reward/*'; none: list what there is.",
        ),
    ] = None,
    stage: Annotated[str | None, typer.Option(show_default=False, help="Of this stage only.")] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RUN", show_default=False, help="Another run in the same charts."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Write a .png, .svg or .pdf instead."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw metrics of a run into the terminal, or into a picture; without a metric, list those there are.

    A curve has as many points as its chart has room for: means over neighbouring steps.
    """
    if out is not None and out.suffix.lower() not in PICTURES:
        raise UsageError(f"--out {out}: expected a name that ends in {', '.join(PICTURES)}")
    directory = pick_run(run)

    from cli.curves import charts, curves
    from streamrec_dist.summary_file import whole_summary

    def measured(one: RunDir) -> list[Curve]:
        found = curves(whole_summary(one)[0], EXACT if as_json else DRAWN)
        return [curve for curve in found if stage is None or curve.stage == stage]

    every = measured(directory)
    if not every:
        of = f" of stage {stage}" if stage else ""
        raise UsageError(f"run {directory.name} has measured nothing{of} yet")
    if not metrics:
        _list(directory.name, every, as_json)
        return
    chosen = _chosen(metrics, every, directory.name)
    groups = charts(chosen)
    if others:
        wanted = {(curve.stage, curve.metric) for curve in chosen}
        beside = [measured(pick_run(other, runs_folder())) for other in others]
        more = [curve for found in beside for curve in found if (curve.stage, curve.metric) in wanted]
        groups = [
            [one, *(curve for curve in more if (curve.stage, curve.metric) == (one.stage, one.metric))]
            for one in chosen
        ]
    if as_json:
        emit_json({"run": directory.name, "curves": [_told(curve) for group in groups for curve in group]})
    elif out is not None:
        _write(out, groups, directory.name)
    else:
        _show(groups)


def add_to(app: typer.Typer) -> None:
    app.command(epilog=examples("streamrec-dist report", "streamrec-dist report demo --examples 8"))(report)
    app.command(
        epilog=examples(
            "streamrec-dist plot demo",
            "streamrec-dist plot demo reward/total kl",
            "streamrec-dist plot demo 'share/*' --out shares.png",
            "streamrec-dist plot demo reward/total --with other",
        )
    )(plot)


def _chosen(metrics: Sequence[str], every: Sequence[Curve], run: str) -> list[Curve]:
    """The curves that are meant, each once. Raises UsageError for a name or a pattern that none has."""
    names = list(dict.fromkeys(curve.metric for curve in every))
    wanted: dict[str, None] = {}
    for metric in metrics:
        found = [metric] if metric in names else fnmatch.filter(names, metric)
        if not found:
            parts = [name for name in names if metric.lower() in name.lower()]
            close = list(dict.fromkeys([*difflib.get_close_matches(metric, names, CLOSE, 0.5), *parts]))[
                :CLOSE
            ]
            meant = f"did you mean {' or '.join(close)}? " if close else ""
            raise UsageError(
                f"run {run} has no metric {metric!r}; {meant}all that there are: streamrec-dist plot {run}"
            )
        wanted |= dict.fromkeys(found)
    return [curve for name in wanted for curve in every if curve.metric == name]


def _list(run: str, every: Sequence[Curve], as_json: bool) -> None:
    if as_json:
        stages: dict[str, list[str]] = {}
        for curve in every:
            stages.setdefault(curve.stage, []).append(curve.metric)
        emit_json({"run": run, "metrics": stages})
        return
    rows = [
        (curve.stage, curve.metric, number(float(curve.means[0])), number(float(curve.means[-1])))
        for curve in every
    ]
    show(table(f"metrics of run {run}", ["stage", "metric", "first", "last"], rows, left=2))
    note(f"draw some with: streamrec-dist plot {run} METRIC...")


def _names(group: Sequence[Curve], several: bool) -> list[str]:
    """How the curves of a chart are told apart: by metric, and by run where there are several."""
    return [f"{curve.metric}, {curve.run}" if several else curve.metric for curve in group]


def _several(groups: Sequence[Sequence[Curve]]) -> bool:
    return len({curve.run for group in groups for curve in group}) > 1


def _show(groups: Sequence[Sequence[Curve]]) -> None:
    from cli.terminal_chart import chart

    console = Console(soft_wrap=True)
    unable = not console.encoding.lower().startswith("utf")
    coloured = console.is_terminal and console.color_system is not None and not console.no_color
    for place, group in enumerate(groups):
        if place:
            console.print()
        console.print(f"stage {group[0].stage}", style="bold", markup=False, highlight=False)
        names = _names(group, _several(groups))
        console.print(chart(group, names, console.width, HEIGHT, coloured, unable))


def _write(out: Path, groups: Sequence[Sequence[Curve]], run: str) -> None:
    from cli.report.canvas import styled
    from cli.report.figures import lines

    with styled():
        sheet = lines(
            f"run {run}",
            "",
            [(f"stage {group[0].stage}", group) for group in groups],
            [_names(group, _several(groups)) for group in groups],
        )
        sheet.save(out)
    print(out)


def _told(curve: Curve) -> dict[str, object]:
    arrays = {name: getattr(curve, name).tolist() for name in ("steps", "means", "lows", "highs")}
    return {"run": curve.run, "stage": curve.stage, "metric": curve.metric, **arrays}
