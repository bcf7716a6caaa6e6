"""A run in Weights & Biases, by their own package (the extra `wandb`)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cli.exports.exporter import Exporter, series
from streamrec_dist.errors import EnvironmentProblem
from streamrec_dist.events import Event
from streamrec_dist.rundir import RunDir

PROJECT = "streamrec-dist"
#: What of the configuration is not about what is trained: hosts, users and keys.
PRIVATE = {"cluster"}


class WeightsAndBiases(Exporter):
    """Logs all curves of the run to a new run of a project; its own variables (WANDB_MODE and so on) hold.

    Raises EnvironmentProblem where the package is missing, or there is no way to log in.
    """

    def __init__(self, run: RunDir, project: str | None = None):
        super().__init__(run)
        try:
            import wandb
        except ImportError:
            raise EnvironmentProblem(
                "the package wandb is not installed; install it with: pip install 'streamrec-dist[wandb]'"
            ) from None
        # Nothing but what is logged leaves this machine: no code, no output, no state of the machine.
        settings = wandb.Settings(
            console="off", silent=True, disable_code=True, disable_git=True, x_disable_stats=True
        )
        try:
            self.logged = wandb.init(
                project=project or os.environ.get("WANDB_PROJECT") or PROJECT,
                name=run.name,
                config=run.config().model_dump(mode="json", exclude=PRIVATE),
                dir=str(run.path),
                settings=settings,
            )
        except wandb.errors.Error as error:
            raise EnvironmentProblem(
                f"Weights & Biases: {error}; log in with `wandb login`, or set WANDB_MODE=offline"
            ) from None
        self.about = f"Weights & Biases: {self.logged.url or self.logged.dir}"
        self.known: set[str] = set()

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            if found := series(event):
                name, values = found
                at = f"{name}/step"
                if name not in self.known:
                    self.known.add(name)
                    # Each series goes by steps of its own.
                    self.logged.define_metric(at)
                    self.logged.define_metric(f"{name}/*", step_metric=at)
                self.logged.log({f"{name}/{key}": value for key, value in values} | {at: event.step})

    def close(self) -> None:
        self.logged.finish()
