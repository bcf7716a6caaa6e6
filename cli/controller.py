"""The detached actor that a run's conductor lives in, as those who ask it know it.

Who looks an actor up by its name imports its class. So this module imports nothing that takes long, such as torch: an
answer takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cli.conductor import Conductor


class Controller:
    """Passes on what a run is asked for; its arguments and methods are those of a Conductor."""

    def __init__(self, *arguments: Any):
        self.conductor = self.make(*arguments)

    def make(self, *arguments: Any) -> Conductor:
        from cli.conductor import Conductor

        return Conductor(*arguments)

    def start(self) -> None:
        self.conductor.start()

    def alive(self) -> bool:
        return self.conductor.alive()

    def request_stop(self) -> None:
        self.conductor.request_stop()

    def pause(self, wanted: bool) -> None:
        self.conductor.pause(wanted)

    def keep(self) -> str:
        return self.conductor.keep()

    def scale(self, wanted: Mapping[str, int]) -> dict[str, int]:
        return self.conductor.scale(wanted)

    def status(self) -> dict[str, Any]:
        return self.conductor.status()
