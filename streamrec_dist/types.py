"""The nouns that travel between the roles: columns, never lists of dicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

import numpy as np

#: Item ids of one user, oldest first: int32 [n].
UserHistory = np.ndarray
#: The m codes of one item: int32 [m].
SemanticId = np.ndarray
#: A counter. Minted only by the publisher, stamped only by the rollout actor, judged only by the buffer.
PolicyVersion = NewType("PolicyVersion", int)

REWARDS = ("format", "exact_match", "similarity", "likelihood", "ranking")


@dataclass(frozen=True)
class RolloutBatch:
    """G rollouts of each of P prompts, with every column that needs policy weights (section 2.4).

    All columns come from one policy version and one decoding pass.
    """

    rows: np.ndarray  # int64 [P]            training rows, the prompts
    tokens: np.ndarray  # int32 [P, G, l+m]    sampled thoughts, then the item
    logprobs: (
        np.ndarray
    )  # float32 [P, G, l+m]  behaviour log-probs under the mask and temperature that sampled
    pooled: np.ndarray  # float32 [P, G, d]    mean of the last decoder states over all l+m positions
    target_states: np.ndarray  # float32 [P, d]       mean token embedding of each target
    other_items: np.ndarray  # int64 [C]            the catalogue items the similarity reward ranks among
    other_states: np.ndarray  # float32 [C, d]       their mean token embeddings
    candidate_logprobs: (
        np.ndarray
    )  # float32 [P, G, 1+N] the target, then its hard negatives, given the thoughts
    version: PolicyVersion
    seed: int
    cursor: int  # number of the first prompt in the run's order of prompts

    @property
    def prompts(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class RewardBreakdown:
    """The five rewards of a RolloutBatch and their weighted total, each float32 [P, G]."""

    format: np.ndarray
    exact_match: np.ndarray
    similarity: np.ndarray
    likelihood: np.ndarray
    ranking: np.ndarray
    total: np.ndarray
    raw_likelihood: np.ndarray  # eq. 26 before it is squashed


@dataclass(frozen=True)
class GroupCounts:
    """How many groups one learner rank works on in a step of stage 3."""

    own: int  # groups dealt to this rank
    padded: int  # the same on every rank: what is missing is filled with groups of weight 0
    total: int  # groups dealt to all ranks, which the loss divides by


@dataclass(frozen=True)
class Annotation:
    """Thoughts of training rows `first .. first + n`, from iterative inference (eq. 12-13)."""

    first: int
    thoughts: np.ndarray  # int32 [n, l]
    own: np.ndarray  # bool [n]     sampled by the model itself instead of annotated
    negatives: np.ndarray  # int64 [n]    dispreferred item of each row
    reference_target: np.ndarray  # float32 [n]  log pi_ref(target | history), eq. 16
    reference_negative: np.ndarray  # float32 [n]  log pi_ref(negative | history), eq. 17
