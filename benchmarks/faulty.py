"""A controller whose weight publications can be dropped or delayed, for benchmarks/chaos.py."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray

from cli.controller import Controller
from learners.publisher import WeightPublisher
from streamrec_dist.rl.ports import Payload, Published, Publisher

DELAY_S = 3.0


class FaultyPublisher(WeightPublisher):
    """Loses the next vector when the file `drop.fault` appears in the run's folder, waits when `delay.fault` does."""

    def __init__(self, run: Path):
        super().__init__()
        self.run = run

    def publish(self, vector: Payload) -> Published:
        published = super().publish(vector)
        if self._asked("delay"):
            time.sleep(DELAY_S)
        if self._asked("drop"):
            ray.wait([vector])
            ray._private.internal_api.free([vector], local_only=False)
        return published

    def _asked(self, what: str) -> bool:
        path = self.run / f"{what}.fault"
        asked = path.exists()
        path.unlink(missing_ok=True)
        return asked


class FaultyController(Controller):
    """As the real one, but for the publisher."""

    def __init__(self, run: Path, *arguments: Any):
        self.path = run
        super().__init__(run, *arguments)

    def new_publisher(self) -> Publisher:
        return FaultyPublisher(self.path)
