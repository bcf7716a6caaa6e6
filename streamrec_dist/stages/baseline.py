"""A baseline that is trained beside the stages of a run, on the same rows and judged in the same way."""

from __future__ import annotations

from streamrec_dist.rundir import StageResult
from streamrec_dist.stages.context import Context
from streamrec_dist.stages.epochs import TrainingByEpochs


def train_baseline(context: Context, name: str) -> StageResult:
    """Train the baseline `name` (baselines/config.py) and keep its best weights under its name."""
    training = TrainingByEpochs(context, name, len(context.materials.rows))
    training.run(name)
    return training.result()
