"""What commands ask of the controllers of runs. Without torch, whose import takes longer than the answer."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from streamrec_dist.errors import RunError, StreamRecError, UsageError, summary

CONTROLLER_DEADLINE_S = 60.0


def controller_name(run: Path) -> str:
    """The name of the controller of a run directory in the cluster, which may hold runs of other folders too."""
    place = hashlib.sha256(os.fsencode(os.path.realpath(run))).hexdigest()[:12]
    return f"controller:{run.name}:{place}"


def run_alive(run: Path) -> bool:
    """Whether a controller works on this run, or is being started again."""
    import ray

    try:
        controller = ray.get_actor(controller_name(run))
        return bool(ray.get(controller.alive.remote(), timeout=CONTROLLER_DEADLINE_S))
    except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnavailableError):
        return True  # there, and too busy to answer, or being started again
    except (ValueError, ray.exceptions.RayActorError):
        return False


def going_already(run: str) -> UsageError:
    """The error of who wants to start a run that a controller works on."""
    return UsageError(
        f"run {run} is going already; `streamrec-dist watch {run}` shows it, `streamrec-dist stop {run}` ends it"
    )


def not_running(run: str) -> UsageError:
    """The error of who wants something of a run that no controller works on."""
    return UsageError(f"run {run} is not running; `streamrec-dist status` shows what is")


def request_stop(run: Path) -> None:
    """Ask a run to write a checkpoint and end. Raises UsageError when it is not running."""
    _ask(run, "request_stop")


def pause_run(run: Path, wanted: bool) -> None:
    """Have a run begin no more work, or go on. Raises UsageError when it is not running, or does so already."""
    _ask(run, "pause", wanted)


def keep_run(run: Path) -> str:
    """Have a run write a checkpoint; what is to be said of it.

    Raises UsageError when it is not running, or cannot.
    """
    return _ask(run, "keep")


def scale_run(run: Path, wanted: dict[str, int]) -> dict[str, int]:
    """Have other numbers of replicas in a running run; all that were asked for since it began.

    Raises UsageError when it is not running, or cannot have them.
    """
    return _ask(run, "scale", wanted)


def run_status(run: Path) -> dict[str, Any]:
    """What a run does just now (`Conductor.status`). Raises UsageError when it is not running."""
    return _ask(run, "status")


def _ask(run: Path, method: str, *args: Any) -> Any:
    import ray

    try:
        controller = ray.get_actor(controller_name(run))
        return ray.get(getattr(controller, method).remote(*args), timeout=CONTROLLER_DEADLINE_S)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnavailableError):
        raise RunError(
            f"run {run.name} did not answer within {CONTROLLER_DEADLINE_S:.0f} s; ask again"
        ) from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StreamRecError):
            raise error.cause from None
        raise RunError(f"run {run.name} cannot answer: {summary(error)}") from None
    except (ValueError, ray.exceptions.RayActorError):
        raise not_running(run.name) from None
