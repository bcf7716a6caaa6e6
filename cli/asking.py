"""What commands ask of the controllers of runs. Without torch, whose import takes longer than the answer."""

from __future__ import annotations

from typing import Any

from cli.members import CONTROLLER_PREFIX
from streamrec_dist.errors import RunError, StreamRecError, UsageError

CONTROLLER_DEADLINE_S = 60.0


def controller_name(run: str) -> str:
    """The name of a run's controller in the cluster."""
    return f"{CONTROLLER_PREFIX}{run}"


def run_alive(name: str) -> bool:
    """Whether a controller works on this run."""
    import ray

    try:
        controller = ray.get_actor(controller_name(name))
        return bool(ray.get(controller.alive.remote(), timeout=CONTROLLER_DEADLINE_S))
    except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnavailableError):
        return True  # there, and too busy to answer, or being started again
    except (ValueError, ray.exceptions.RayActorError):
        return False


def request_stop(name: str) -> None:
    """Ask a run to write a checkpoint and end. Raises UsageError when it is not running."""
    _ask(name, "request_stop")


def scale_run(name: str, wanted: dict[str, int]) -> dict[str, int]:
    """Have other numbers of replicas in a running run; all that were asked for since it began.

    Raises UsageError when it is not running, or cannot have them.
    """
    return _ask(name, "scale", wanted)


def run_status(name: str) -> dict[str, Any]:
    """What a run does just now (`Controller.status`). Raises UsageError when it is not running."""
    return _ask(name, "status")


def _ask(name: str, method: str, *args: Any) -> Any:
    import ray

    try:
        controller = ray.get_actor(controller_name(name))
        return ray.get(getattr(controller, method).remote(*args), timeout=CONTROLLER_DEADLINE_S)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnavailableError):
        raise RunError(f"run {name} did not answer within {CONTROLLER_DEADLINE_S:.0f} s; ask again") from None
    except (ValueError, ray.exceptions.RayActorError):
        raise UsageError(f"run {name} is not running") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StreamRecError):
            raise error.cause from None
        raise
