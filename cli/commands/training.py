"""train, watch, stop, pause, resume, checkpoint: runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cli import cluster
from cli.asking import going_already, keep_run, not_running, pause_run, request_stop, run_alive
from cli.commands.export import (
    PrometheusOption,
    TensorBoardOption,
    WandbOption,
    exporters,
    refuse_detached,
)
from cli.commands.options import JsonOption, RunArgument, examples
from cli.dashboard.json_lines import JsonView
from cli.dashboard.live import LiveView, can_be_live
from cli.dashboard.plain import PlainView
from cli.dashboard.view import View
from cli.exports.exporter import Exporting
from cli.follow import Follower, finish, resume_line
from cli.output import emit_json, note
from cli.plan import (
    BaselineName,
    StageName,
    last_goal,
    missing_stages,
    plan_branch,
    plan_run,
    training_goal,
)
from cli.workspace import living_cluster, pick_run
from streamrec_dist.errors import RunError, UsageError
from streamrec_dist.rundir import RunDir, run_exists

STOP_SECONDS = 600
PlainOption = Annotated[bool, typer.Option("--plain", help="One line a step, even on a terminal.")]
PLAIN_OR_JSON = "--plain is for people and --json for programs: give one of them"


def train(
    stage: Annotated[
        StageName | None,
        typer.Option(
            show_default=False,
            help="How far to train; `all` is the same as `rl`. Default under --resume: as far as was last asked for.",
        ),
    ] = None,
    baseline: Annotated[
        BaselineName | None,
        typer.Option(
            show_default=False, help="Train a model to compare with instead, beside a run's stages."
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the run; default: data and time.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of cluster.yaml; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run; default: the newest.")] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="Take the stages before this one from another run."),
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Write what every process does when to trace.json, for Perfetto.")
    ] = False,
    tensorboard: TensorBoardOption = False,
    wandb: WandbOption = False,
    prometheus: PrometheusOption = False,
    plain: PlainOption = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; the run goes on.")] = False,
    only: Annotated[bool, typer.Option("--only", help="Refuse to run the stages before this one.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Configuration; default: the one the cluster was started with."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a run up to a stage, or a baseline on its data, first running the stages it lacks, and show it live.

    Leaving the view (q, or Ctrl-C) leaves the run going on the cluster. What is exported beside the view ends with
    it; `export --follow` goes on.
    """
    if plain and as_json:
        raise UsageError(PLAIN_OR_JSON)
    if source is not None and resume:
        raise UsageError("--from begins a new run and --resume continues one: give one of them")
    if detach:
        refuse_detached(run, (tensorboard, wandb, prometheus))
    goal = training_goal(stage, baseline, run, resume)
    record = cluster.find_cluster()
    if source is not None:
        plan = plan_branch(record, source, goal, run=run, config=config, overrides=overrides or [])
    else:
        # A baseline joins the run of that name, whose data and ids it shares.
        resume = resume or (baseline is not None and run is not None and run_exists(record.runs, run))
        plan = plan_run(record, run=run, config=config, overrides=overrides or [], resume=resume)
    begun = time.monotonic()
    goal = goal or last_goal(plan.run())
    stages = missing_stages(plan, goal, only=only, quiet=stage is StageName.all)
    if not stages:
        note(f"run {plan.name} has finished {goal} already; nothing to do")
        return finish(plan.run(), "done", begun, as_json)

    note(f"connecting to the cluster at {record.address} ...")
    cluster.connect(record)
    if run_alive(record.runs / plan.name):
        raise going_already(plan.name)

    from cli.launch import check_room, create_run, start_run

    check_room(plan, stages)
    directory = plan.run() if resume else create_run(plan)
    try:
        exporting = Exporting(exporters(directory, tensorboard, wandb, prometheus))
    except BaseException:
        if not resume:
            shutil.rmtree(directory.path)
        raise
    follower = Follower(directory, record, starting=True)
    # A new run's own file has what was left to the machine settled; a resumed one may move to other hardware.
    start_run(plan.config if resume else directory.config(), record.runs, plan.name, stages, traced=trace)
    cluster.disconnect()
    note(f"run {plan.name}: {', '.join(stages)}; files in {directory.path}")
    if detach:
        return finish(directory, "detached", begun, as_json)
    with exporting:
        state = follower.follow(_view(directory, stay=False, plain=plain, to_stderr=as_json))
    return finish(directory, state, begun, as_json)


def watch(
    run: RunArgument = None,
    plain: PlainOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The run's events, one JSON object a line, until it ends.")
    ] = False,
    tensorboard: TensorBoardOption = False,
    wandb: WandbOption = False,
    prometheus: PrometheusOption = False,
) -> None:
    """Show a run: live while it goes, or how it ended. `?` in the live view explains its keys and words."""
    if plain and as_json:
        raise UsageError(PLAIN_OR_JSON)
    directory = pick_run(run)
    begun = time.monotonic()
    view = JsonView(directory) if as_json else _view(directory, stay=True, plain=plain)
    with Exporting(exporters(directory, tensorboard, wandb, prometheus)):
        state = Follower(directory, living_cluster()).follow(view)
    finish(directory, state, begun, as_json=False)


def _view(run: RunDir, stay: bool, plain: bool = False, to_stderr: bool = False) -> View:
    """What the terminal can show, or one line a step."""
    if plain or not can_be_live(to_stderr):
        return PlainView(to_stderr)
    return LiveView(run, stay, to_stderr)


def pause(run: RunArgument = None) -> None:
    """Let a run finish what is at work and begin no more, until `resume`; its processes stay."""
    _ask(run, lambda path: pause_run(path, True), "paused; it goes on with: streamrec-dist resume {run}")


def resume(run: RunArgument = None) -> None:
    """Let a paused run go on. (A run that ended goes on with `train --resume`.)"""
    _ask(run, lambda path: pause_run(path, False), "goes on")


def checkpoint(run: RunArgument = None) -> None:
    """Have a run write a checkpoint now."""
    _ask(run, keep_run, "{said}")


def _ask(run: str | None, request: Callable[[Path], str | None], told: str) -> None:
    """Send one request to the controller of a run."""
    directory = pick_run(run)
    cluster.connect(cluster.find_cluster(), to_work=False)
    said = request(directory.path)
    cluster.disconnect()
    note(f"run {directory.name}: {told.format(run=directory.name, said=said)}")


def stop(run: RunArgument = None, as_json: JsonOption = False) -> None:
    """Let a run write a checkpoint and end; `train --resume` continues it."""
    directory = pick_run(run)
    record = cluster.find_cluster()
    cluster.connect(record, to_work=False)

    if not run_alive(directory.path):
        raise not_running(directory.name)
    follower = Follower(directory, record, starting=True)
    request_stop(directory.path)
    cluster.disconnect()
    note(f"asked run {directory.name} to stop; waiting {STOP_SECONDS} s at most for its checkpoint ...")
    state = follower.wait_for_end(STOP_SECONDS)
    if state == "lost":
        raise RunError(f"run {directory.name} ended without saying so; {follower.last_words()}")
    if state == "failed":
        raise RunError(f"run {directory.name} failed before it could stop; {follower.last_words()}")
    note(f"run {directory.name}: {state}; continue it with: {resume_line(directory)}")
    if as_json:
        emit_json({"run": directory.name, "state": state})


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "streamrec-dist train --stage all",
            "streamrec-dist train --stage rl --run big --set stages.rl.steps=1000 --detach",
            "streamrec-dist train --resume",
            "streamrec-dist train --stage rl --run no-kl --from big --set stages.rl.kl=0",
            "streamrec-dist train --baseline sasrec --run big",
        )
    )(train)
    app.command(
        epilog=examples(
            "streamrec-dist watch", "streamrec-dist watch demo --plain", "streamrec-dist watch demo --json"
        )
    )(watch)
    app.command(epilog=examples("streamrec-dist stop", "streamrec-dist stop demo"))(stop)
    for command in (pause, resume, checkpoint):
        name = command.__name__
        app.command(epilog=examples(f"streamrec-dist {name}", f"streamrec-dist {name} demo"))(command)
