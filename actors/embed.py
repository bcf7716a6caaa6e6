"""Embedding item texts: a Ray Data pipeline whose workers hand each finished shard to the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError

from actors.placement import role_resources, start_worker
from actors.store import STORE_DEADLINE_S
from streamrec_dist.config import Config
from streamrec_dist.errors import EnvironmentProblem, RunError, StreamRecError, summary
from streamrec_dist.items.encoder import load_encoder
from streamrec_dist.items.encoder_weights import find_weights, weights_sha256
from streamrec_dist.items.shards import SHARD_ITEMS

FIND_DEADLINE_S = 600.0
#: The longest that a shard may take.
SHARD_DEADLINE_S = 1800


class EmbedWorker:
    """Holds the text encoder; a batch is one shard."""

    def __init__(self, config: Config, store: Any):
        device = start_worker(config.actors.embed.cpus, config.deterministic)
        self.encoder = load_encoder(config.items.encoder, device, config.items.backend)
        self.store = store

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Texts of consecutive items, `item` int64 [n] and `text` [n] -> how many were embedded."""
        vectors = self.encoder.encode_unchecked(batch["text"].tolist())
        first = int(batch["item"][0])
        # Waited for: what is reported as done must be on disk. Vectors never pass the caller.
        ray.get(self.store.write_embeddings.remote(first, vectors), timeout=STORE_DEADLINE_S)
        return {"done": np.array([len(vectors)])}


def embed_texts(
    config: Config,
    texts: Sequence[str],
    missing: Sequence[tuple[int, int]],
    store: Any,
) -> Iterator[int]:
    """Embed the `missing` ranges of `texts`; yields the number of texts of each shard once the store has it.

    In `config` the GPUs are settled (`stage_config`).
    Raises EnvironmentProblem when the workers do not start, RunError when one fails.
    """
    if not missing:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A cluster that is busy with another run must not make this one wait for ever.
    context.wait_for_min_actors_s = int(config.cluster.patience_s)
    context.execution_no_progress_timeout_s = SHARD_DEADLINE_S
    actors = config.actors.embed
    # One block a shard, so that shards can go to different workers.
    blocks = [
        pa.table({"item": range(first, last), "text": list(texts[first:last])}) for first, last in missing
    ]
    embedded = ray.data.from_arrow(blocks).map_batches(
        EmbedWorker,
        fn_constructor_args=(config, store),
        batch_size=SHARD_ITEMS,
        compute=ray.data.ActorPoolStrategy(size=actors.replicas, max_tasks_in_flight_per_actor=2),
        num_cpus=actors.cpus,
        num_gpus=float(actors.gpus),
        resources=role_resources("embed"),
    )
    try:
        for batch in embedded.iter_batches(batch_size=None, prefetch_batches=0):
            yield int(batch["done"].sum())
    except ray.exceptions.GetTimeoutError:
        raise EnvironmentProblem(
            f"the embed actors did not start within {config.cluster.patience_s:.0f} s; is the cluster busy with "
            "another run? see `streamrec-dist status`"
        ) from None
    except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
        raise RunError(f"embedding item texts failed: {summary(error)}") from None


def find_encoder(name: str) -> str:
    """The SHA-256 of the weights of the encoder `name`, looked for on a node of the cluster.

    Raises EnvironmentProblem when there are none; the pipeline would wrap its message up.
    """
    try:
        find = ray.remote(_find_fingerprint).options(num_cpus=0)
        return ray.get(find.remote(name), timeout=FIND_DEADLINE_S)
    except ray.exceptions.GetTimeoutError:
        raise EnvironmentProblem(
            f"items.encoder: {name} was not found or fetched within {FIND_DEADLINE_S:.0f} s; fetch it beforehand "
            "and give its folder"
        ) from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StreamRecError):
            raise error.cause from None
        raise


def _find_fingerprint(name: str) -> str:
    return weights_sha256(find_weights(name))
