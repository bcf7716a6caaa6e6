"""A controller whose weight publications can be dropped or delayed, for benchmarks/chaos.py."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray

from cli.conductor import Conductor
from cli.controller import Controller
from learners.publisher import WeightPublisher
from streamrec_dist.rl.ports import Payload, Published, Publisher

DELAY_S = 3.0


@ray.remote(num_cpus=0)
class Owner:
    """Whose objects are lost with it."""

    def own(self) -> list[Any]:
        return [ray.put(np.zeros(1 << 20, dtype=np.float32))]


def _lost() -> Any:
    """A reference to an object whose owner is dead."""
    owner = Owner.remote()
    (reference,) = ray.get(owner.own.remote())
    ray.kill(owner)
    with suppress(ray.exceptions.RayActorError):
        ray.get(owner.own.remote())
    # Whoever reads an object before the cluster knows of its owner's death keeps it.
    time.sleep(1.0)
    return reference


class FaultyPublisher(WeightPublisher):
    """Loses the next vector when the file `drop.fault` appears in the run's folder, waits when `delay.fault` does."""

    def __init__(self, run: Path):
        super().__init__()
        self.run = run

    def publish(self, vector: Payload) -> Published:
        published = super().publish(vector)
        if self._asked("delay"):
            time.sleep(DELAY_S)
        return Published(published.version, _lost()) if self._asked("drop") else published

    def _asked(self, what: str) -> bool:
        path = self.run / f"{what}.fault"
        asked = path.exists()
        path.unlink(missing_ok=True)
        return asked


class FaultyConductor(Conductor):
    """As the real one, but for the publisher."""

    def __init__(self, run: Path, *arguments: Any):
        self.path = run
        super().__init__(run, *arguments)

    def new_publisher(self) -> Publisher:
        return FaultyPublisher(self.path)


class FaultyController(Controller):
    """That of a FaultyConductor."""

    def make(self, *arguments: Any) -> Conductor:
        return FaultyConductor(*arguments)
