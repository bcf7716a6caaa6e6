"""Pools of stateless actors, and the runtime that waits for what they and the learners do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from streamrec_dist.config import ActorConfig
from streamrec_dist.errors import EnvironmentProblem, RunError, StreamRecError, WorkerLost, summary
from streamrec_dist.rl.ports import Task

#: How often a stateless actor is restarted, and its call repeated, before the run fails.
RESTARTS = 3
START_DEADLINE_S = 180.0


class RayRuntime:
    """Implements the Runtime port on object references."""

    def wait(self, tasks: Sequence[Task], what: str, timeout_s: float) -> Task:
        """The first finished task; a failed part of any task raises RunError at once."""
        deadline = time.monotonic() + timeout_s
        finished: set[Any] = set()
        while True:
            open_refs = [ref for task in tasks for ref in task.receipt if ref not in finished]
            done = next((task for task in tasks if all(ref in finished for ref in task.receipt)), None)
            if done is not None:
                return done
            left = deadline - time.monotonic()
            ready, _ = ray.wait(open_refs, num_returns=1, timeout=max(left, 0), fetch_local=False)
            if not ready:
                raise RunError(f"nothing finished within {timeout_s:.0f} s while waiting for {what}")
            # One of several ranks failing must not leave the others' results awaited for ever.
            if any(len(task.receipt) > 1 and ready[0] in task.receipt for task in tasks):
                _get(ready[0], what, timeout_s)
            finished |= set(ready)

    def receipt(self, task: Task, what: str, timeout_s: float) -> Any:
        done = self.wait([task], what, timeout_s)
        return done.merge([_get(ref, what, timeout_s) for ref in done.receipt])


def _get(ref: Any, what: str, timeout_s: float) -> Any:
    try:
        return ray.get(ref, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise RunError(f"{what} did not finish within {timeout_s:.0f} s") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StreamRecError):
            raise error.cause from None
        # An argument made by a process that has died since comes back as its consumer's failure.
        lost = isinstance(error.cause, ray.exceptions.RayActorError)
        raise (WorkerLost if lost else RunError)(f"{what} failed: {summary(error)}") from None
    except ray.exceptions.RayActorError as error:
        raise WorkerLost(f"a process died during {what}: {summary(error)}") from None


class Pool:
    """Replicas of one role. Calls go to them in turn."""

    def __init__(
        self, role: str, actor_class: Any, config: ActorConfig, args: Sequence[Any], restarts: int = RESTARTS
    ):
        """`args` are the constructor's arguments, big ones as object references: a restart passes them again."""
        self.role, self.replicas = role, config.replicas
        # Held for as long as the pool: a restart needs the arguments again.
        self._args = args
        options = {
            "num_cpus": config.cpus,
            "num_gpus": config.gpus,
            "max_restarts": restarts,
            "max_task_retries": restarts,
        }
        self.actors: list[Any] = [
            ray.remote(actor_class).options(**options).remote(*args) for _ in range(config.replicas)
        ]
        self._turn = 0

    def started(self) -> list[Any]:
        """References that resolve when each replica is up."""
        return [actor.__ray_ready__.remote() for actor in self.actors]

    def call(self, method: str, *args: Any) -> Task:
        """Call the next replica; a method with two returns gives a receipt and a payload."""
        actor = self.actors[self._turn % len(self.actors)]
        self._turn += 1
        returned = getattr(actor, method).remote(*args)
        receipt, payload = returned if isinstance(returned, list) else (returned, None)
        return Task([receipt], payload)

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []


def wait_started(pools: dict[str, list[Any]]) -> None:
    """Wait until all actors are up: role -> references. Raises EnvironmentProblem naming the roles that are not."""
    deadline = time.monotonic() + START_DEADLINE_S
    for role, refs in pools.items():
        try:
            ray.get(refs, timeout=max(deadline - time.monotonic(), 1.0))
        except ray.exceptions.GetTimeoutError:
            raise EnvironmentProblem(
                f"the {role} actors did not start within {START_DEADLINE_S:.0f} s; "
                "is the cluster busy with another run? see `streamrec-dist status`"
            ) from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StreamRecError):
                raise error.cause from None
            raise RunError(f"a {role} actor could not start: {summary(error)}") from None
        except ray.exceptions.RayActorError as error:
            raise RunError(f"a {role} actor could not start: {summary(error)}") from None
