"""What a reward worker does with a RolloutBatch: five rewards, from its columns and the frozen direct decoder."""

from __future__ import annotations

import numpy as np
import torch

from streamrec_dist.data.batches import targets
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.likelihood import direct_log_probs
from streamrec_dist.materials import Materials, arithmetic
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.rl.rewards import score_rollouts
from streamrec_dist.types import RewardBreakdown, RolloutBatch


class Scorer:
    """Holds no policy: only pi_ref, whose target log-prob is computed once a training row and kept.

    Under `deterministic` it is computed anew: its last bits depend on the rows that it is computed with, and which
    ones this worker has not scored before depends on the order in which rollouts arrived.
    """

    def __init__(self, materials: Materials, reference: StreamRec):
        self.materials = materials
        self.reference = Engine(reference.eval(), arithmetic(materials.config))
        self.catalogue = materials.catalogue
        self.trie = materials.catalogue.to(self.reference.device)
        self._target_logprobs = np.full(len(materials.rows), np.nan, dtype=np.float32)

    def score(self, batch: RolloutBatch) -> RewardBreakdown:
        """The rewards of a batch, each float32 [P, G]."""
        corpus = self.materials.corpus
        items = targets(corpus, self.materials.rows[batch.rows])
        tokens = torch.from_numpy(batch.tokens[..., -corpus.levels :].astype(np.int64))
        return score_rollouts(
            batch,
            self.materials.config.stages.rl,
            valid=(self.catalogue.item_of_tokens(tokens) >= 0).numpy(),
            target_items=items,
            target_tokens=corpus.item_tokens(items),
            reference=self.target_logprobs(batch.rows),
        )

    def target_logprobs(self, rows: np.ndarray) -> np.ndarray:
        """log pi_ref(target | history), float32 [P], of training rows int64 [P]."""
        again = self.materials.config.deterministic
        missing = np.unique(rows if again else rows[np.isnan(self._target_logprobs[rows])])
        if len(missing):
            corpus, device = self.materials.corpus, self.reference.device
            pairs = self.materials.rows[missing]
            prompts = (torch.from_numpy(array).to(device) for array in self.materials.prompts(pairs))
            history, places, below = prompts
            informed = self.reference.model.guide(self.trie, places, below, "direct")
            items = torch.from_numpy(corpus.item_tokens(targets(corpus, pairs))).to(device)[:, None]
            self._target_logprobs[missing] = (
                direct_log_probs(self.reference, history, items, informed)[:, 0].cpu().numpy()
            )
        return self._target_logprobs[rows]
