"""Embed actors: item texts to vectors, and vectors to semantic ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.placement import start_worker
from actors.pool import Pool
from streamrec_dist.config import ActorConfig, Config
from streamrec_dist.events import Event
from streamrec_dist.items.encoder import load_encoder
from streamrec_dist.items.rqvae import TokenizerOptions
from streamrec_dist.rl.ports import Task
from streamrec_dist.stages.tokenize import tokenize


class EmbedActor:
    """Holds the sentence encoder."""

    def __init__(self, encoder: str, cpus: float):
        self.device = start_worker(cpus)
        self.encoder = load_encoder(encoder, self.device)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, dim]"""
        return self.encoder.encode(texts)

    def quantise(self, config: Config, texts: Sequence[str], store: Any, *embeddings: np.ndarray) -> Any:
        """The rest of the tokenize stage, on the embeddings of all texts in their order: Tokenized."""

        def emit(_: str, progress: dict[str, Any]) -> None:
            event = Event(
                "step",
                "tokenize",
                step=progress["epoch"],
                total=progress["epochs"],
                metrics={name: progress[name] for name in ("loss", "recon", "used_codes")},
            )
            store.emit.remote(event)

        joined = np.concatenate(embeddings)
        options = tokenizer_options(config)
        return tokenize(texts, lambda _: joined, options, config.items.neighbours, emit, self.device)


def tokenizer_options(config: Config) -> TokenizerOptions:
    """The part of the configuration that decides the semantic ids."""
    stage = config.stages.tokenize
    return TokenizerOptions(
        levels=config.items.levels,
        codes=config.items.codes,
        latent=stage.latent,
        hidden=stage.hidden,
        epochs=stage.epochs,
        batch=stage.batch,
        lr=stage.lr,
        collisions=config.items.collisions,
        seed=config.seed,
    )


class EmbedPool:
    """Distributes texts over the actors; one of them makes the ids."""

    def __init__(self, config: ActorConfig, encoder: str):
        self.pool = Pool("embed", EmbedActor, config, [encoder, config.cpus])

    def embed(self, texts: Sequence[str]) -> Task:
        return self.pool.call("embed", texts)

    def quantise(self, config: Config, texts: Sequence[str], store: Any, parts: Sequence[Any]) -> Task:
        return self.pool.call("quantise", config, texts, store, *parts)
