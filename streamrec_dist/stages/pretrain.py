"""Stage 1: pretraining on long targets, with the direct decoder beside it (section 2.2).

    training rows --> learners (DDP): [2 retrieved items, target] and [target]
                         | every epoch
                         v
    validation NDCG@10 of the direct decoder --> best weights, patience

What comes out is pi_ref: the direct decoder with its encoder, frozen from here on.
"""

from __future__ import annotations

from streamrec_dist.rundir import StageResult
from streamrec_dist.stages.context import Context
from streamrec_dist.stages.epochs import TrainingByEpochs

STAGE = "pretrain"


def pretrain(context: Context) -> StageResult:
    """Train until the patience is spent or the epochs are, and keep the best weights."""
    training = TrainingByEpochs(context, STAGE, len(context.materials.supervised))
    training.run("direct")
    return training.result()
