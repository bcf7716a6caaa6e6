"""What shows a run."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from streamrec_dist.events import Event
from streamrec_dist.summary import RunSummary


class View:
    """Shows a run while its block runs."""

    #: Whether it is shown until it is left, however the run ended.
    stays = False
    #: Whether it wants all events that there were, not only what they come down to.
    shows_past = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, state: RunSummary, events: list[Event], lost: bool = False) -> None:
        """Take events that have come, and what all of them come down to; `lost`: nobody works on the run."""
        raise NotImplementedError

    def left(self, seconds: float) -> bool:
        """Wait so long; whether the user has left meanwhile."""
        time.sleep(seconds)
        return False
