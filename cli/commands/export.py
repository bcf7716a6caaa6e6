"""export: what a run measured, for other programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.options import RunArgument, examples
from cli.follow import Follower
from cli.output import note
from cli.workspace import living_cluster, pick_run
from streamrec_dist.errors import UsageError
from streamrec_dist.rundir import RunDir

if TYPE_CHECKING:
    from cli.exports.exporter import Exporter

#: Options that one of the exports alone has a use for.
BELONGS = {
    "--out": ("tensorboard", "parquet"),
    "--follow": ("tensorboard", "wandb", "prometheus"),
    "--project": ("wandb",),
    "--host": ("prometheus",),
    "--port": ("prometheus",),
}

TensorBoardOption = Annotated[
    bool, typer.Option("--tensorboard", help="Write TensorBoard event files to runs/NAME/tensorboard.")
]
WandbOption = Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases (the extra `wandb`).")]
PrometheusOption = Annotated[
    bool, typer.Option("--prometheus", help="Serve what the run is at to Prometheus, at 127.0.0.1:9464.")
]


def export(
    run: RunArgument = None,
    tensorboard: TensorBoardOption = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Write the events as a table, runs/NAME/events.parquet.")
    ] = False,
    wandb: WandbOption = False,
    prometheus: PrometheusOption = False,
    grafana: Annotated[
        bool, typer.Option("--grafana", help="Print a Grafana dashboard of what --prometheus serves.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Another folder for --tensorboard, or file for --parquet."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run has ended.")] = False,
    project: Annotated[
        str | None, typer.Option(metavar="NAME", help="The project of --wandb; default: streamrec-dist.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Where --prometheus listens; others than 127.0.0.1 are open to all."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port of --prometheus; 0: a free one.")
    ] = None,
) -> None:
    """Bring what a run measured to other programs: TensorBoard, Parquet, Weights & Biases, Prometheus.

    Reads the events of the run, whether it goes or has ended; the run does not notice. Prometheus is served until it
    is interrupted.
    """
    wanted = {"tensorboard": tensorboard, "parquet": parquet, "wandb": wandb, "prometheus": prometheus}
    chosen = [name for name, one in (wanted | {"grafana": grafana}).items() if one]
    if len(chosen) != 1:
        raise UsageError("export wants one of --tensorboard, --parquet, --wandb, --prometheus and --grafana")
    given = {"--out": out, "--follow": follow or None, "--project": project, "--host": host, "--port": port}
    for option, value in given.items():
        if value is not None and chosen[0] not in BELONGS[option]:
            raise UsageError(f"--{chosen[0]} has no use for {option}")
    if grafana:
        print(resources.files("cli.exports").joinpath("grafana.json").read_text(encoding="utf-8"), end="")
        return
    directory = pick_run(run)
    exporter = _exporter(directory, chosen[0], out, project, host, port)
    if prometheus:
        note(f"run {directory.name}: {exporter.about} (Ctrl-C ends it)")
    try:
        _export(exporter, directory, follow, forever=prometheus and not follow)
    except KeyboardInterrupt:
        # Who leaves a run that goes on has exported it so far.
        if follow:
            exporter.close()
        raise
    exporter.close()
    if not prometheus:
        note(f"run {directory.name}: {exporter.about}")


def exporters(directory: RunDir, tensorboard: bool, wandb: bool, prometheus: bool) -> list[Exporter]:
    """What `train` and `watch` export beside the view."""
    wanted = {"tensorboard": tensorboard, "wandb": wandb, "prometheus": prometheus}
    made = [_exporter(directory, name) for name, one in wanted.items() if one]
    for exporter in made:
        note(f"run {directory.name}: {exporter.about}")
    return made


def refuse_detached(name: str | None, wanted: Sequence[bool]) -> None:
    """Raise UsageError where something is to be exported and nobody stays to do so."""
    if any(wanted):
        line = " ".join(("streamrec-dist export", *([name] if name else []), "--tensorboard --follow"))
        raise UsageError(
            f"what shows a run exports it, and --detach shows nothing; leave one of them out, or type then: {line}"
        )


def _exporter(
    directory: RunDir,
    kind: str,
    out: Path | None = None,
    project: str | None = None,
    host: str | None = None,
    port: int | None = None,
) -> Exporter:
    # What one of them needs takes as long to import as the rest together.
    if kind == "tensorboard":
        from cli.exports.tensorboard import TensorBoard

        return TensorBoard(directory, out)
    if kind == "parquet":
        from cli.exports.parquet import ParquetTable

        return ParquetTable(directory, out)
    if kind == "wandb":
        from cli.exports.wandb import WeightsAndBiases

        return WeightsAndBiases(directory, project)
    from cli.exports.prometheus import LOOPBACK, PORT, Prometheus
    from streamrec_dist.cluster_config import is_loopback

    host = host or LOOPBACK
    if not is_loopback(host):
        note(f"warning: whoever reaches {host} can read what the run is at")
    return Prometheus(directory, host, PORT if port is None else port)


def _export(exporter: Exporter, directory: RunDir, follow: bool, forever: bool) -> None:
    """Have the events there are exported, and those to come: until the run has ended, or forever."""
    from cli.exports.exporter import FOLLOW_S

    follower = Follower(directory, living_cluster()) if follow else None
    while True:
        # An end that was seen has all events before it.
        ended = bool(follower.end()) if follower else not forever
        exporter.read()
        if ended:
            return
        time.sleep(FOLLOW_S)


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "streamrec-dist export --tensorboard",
            "streamrec-dist export demo --tensorboard --follow",
            "streamrec-dist export demo --parquet --out events.parquet",
            "streamrec-dist export demo --prometheus --port 9464",
            "streamrec-dist export --grafana > dashboard.json",
        )
    )(export)
