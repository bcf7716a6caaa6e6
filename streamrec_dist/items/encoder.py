"""Text encoders: item texts to embeddings by a pretrained language model and mean pooling (eq. 4).

Three backends behind one interface: sentence-transformers (any of its models), transformers (the mean of the last
hidden states of any encoder or decoder) and vLLM's pooling runner (for models of billions of parameters).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from streamrec_dist.errors import DataError, EnvironmentProblem, StreamRecError, summary
from streamrec_dist.hardware import cpu_has_bf16
from streamrec_dist.items.encoder_weights import find_weights, weights_sha256

#: Neither the hub is asked nor code run that a model's folder brings.
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
Backend = Literal["sentence-transformers", "transformers", "vllm"]


class Encoder(ABC):
    """A loaded model; `load_encoder` makes one.

    `name` as asked for, `dim` of an embedding, `fingerprint` of the weights.
    """

    #: Texts embedded together.
    BATCH = 32

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights; reads all of them."""
        return weights_sha256(self._folder)

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""
        return self._embed([""]).shape[1]

    @abstractmethod
    def _embed(self, texts: list[str]) -> np.ndarray:
        """Embeddings [n, dim] of one batch."""

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Embeddings float32 [n, dim] of the texts, in their order; an empty text has one too.

        Batches hold texts of similar length. `on_batch` gets the number of texts done so far, after each batch.
        Raises DataError naming the first item whose embedding is not finite.
        """
        embeddings = self.encode_unchecked(texts, batch_size, on_batch)
        check_finite(embeddings, "the embedding", lambda row: f"{texts[row]!r:.80} by {self.name}")
        return embeddings

    def encode_unchecked(
        self,
        texts: Sequence[str],
        batch_size: int | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """As `encode`, for a part of a catalogue, in which an error could not name the item."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        batch_size = batch_size or self.BATCH
        longest_first = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        parts = []
        for start in range(0, len(texts), batch_size):
            batch = [texts[i] for i in longest_first[start : start + batch_size]]
            parts.append(self._embed(batch))
            if on_batch is not None:
                on_batch(start + len(batch))
        embeddings = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
        embeddings[longest_first] = np.concatenate(parts)
        return embeddings


class SentenceEncoder(Encoder):
    """A sentence-transformers model with the pooling that it was trained with."""

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        folder = find_weights(name)
        super().__init__(name, folder)
        # Imported here: it takes seconds, and most of what imports this module never encodes.
        from sentence_transformers import SentenceTransformer

        with _quiet_loading():
            # A folder without a pooling config gets a mean pooling module from the library itself.
            self._model = SentenceTransformer(
                str(folder),
                device=str(device),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        self._bf16 = _has_native_bf16(torch.device(device))

    def _embed(self, texts: list[str]) -> np.ndarray:
        # bf16 is 2.8 times as fast as fp32 on a CPU that has it, and moves cosines by at most .0025.
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._bf16):
            return self._model.encode(texts, batch_size=len(texts), show_progress_bar=False)


class MeanPoolingEncoder(Encoder):
    """The mean of the last hidden states over a text's tokens, of any model that transformers loads.

    Of an encoder-decoder the encoder is used. A text is cut at the model's longest input.
    """

    LONGEST = 512

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        folder = find_weights(name)
        super().__init__(name, folder)
        from transformers import AutoModel, AutoTokenizer

        self._device = torch.device(device)
        with _quiet_loading():
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **_LOCAL)
            model = AutoModel.from_pretrained(folder, use_safetensors=True, **_LOCAL)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        self._model = model.to(self._device).eval()
        if self._tokenizer.pad_token is None:
            # Decoders often have none; what stands in padded places is masked out of the mean.
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._tokenizer.padding_side = "right"
        self._bf16 = _has_native_bf16(self._device)

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> np.ndarray:
        longest = min(self._tokenizer.model_max_length, self.LONGEST)
        # A tokenizer without special tokens makes nothing of an empty text.
        batch: Any = self._tokenizer(
            [text or " " for text in texts],
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        ).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            states = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).float()
        mean = (states.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)
        return mean.cpu().numpy()


class VllmEncoder(Encoder):
    """vLLM's pooling runner with mean pooling. A text is cut at the model's longest input."""

    #: vLLM batches by itself, the better the more it is given.
    BATCH = 512

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        folder = find_weights(name)
        super().__init__(name, folder)
        try:
            from vllm import LLM
            from vllm.config import PoolerConfig
        except ImportError:
            raise EnvironmentProblem(
                "items.backend: vllm is not installed; run pip install 'streamrec-dist[vllm]', or use "
                "items.backend: transformers"
            ) from None
        # Not normalised, as the mean of the transformers backend is not.
        pooler = PoolerConfig(seq_pooling_type="MEAN", use_activation=False)
        self._model = LLM(model=str(folder), runner="pooling", pooler_config=pooler, trust_remote_code=False)

    def _embed(self, texts: list[str]) -> np.ndarray:
        # Unless told to cut a text at the model's longest input (-1), vLLM refuses a longer one.
        cut = {"truncate_prompt_tokens": -1}
        outputs = self._model.embed([text or " " for text in texts], use_tqdm=False, tokenization_kwargs=cut)
        return np.array([output.outputs.embedding for output in outputs], dtype=np.float32)


BACKENDS: dict[str, type[SentenceEncoder] | type[MeanPoolingEncoder] | type[VllmEncoder]] = {
    "sentence-transformers": SentenceEncoder,
    "transformers": MeanPoolingEncoder,
    "vllm": VllmEncoder,
}


def load_encoder(
    name: str, device: str | torch.device = "cpu", backend: Backend = "sentence-transformers"
) -> Encoder:
    """The text encoder `name`: all-MiniLM-L6-v2, another hub name, or a local folder.

    Raises EnvironmentProblem when its weights cannot be found, loaded, or are not the expected ones, or the backend
    is not installed.
    """
    try:
        return BACKENDS[backend](name, device)
    except StreamRecError:
        raise
    except Exception as error:
        # A damaged folder shows as whatever the library of the backend stumbles over.
        raise EnvironmentProblem(
            f"items.encoder: {name!r} cannot be loaded by {backend} ({summary(error)}); is its folder damaged, or of "
            "another kind of model?"
        ) from error


def check_finite(embeddings: np.ndarray, what: str, name: Callable[[int], str] = "item {}".format) -> None:
    """Raise DataError with the `name` of the first row of `embeddings` [n, dim] that holds a NaN or an infinity."""
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise DataError(
            f"{what} of {name(int(bad[0]))} is not finite (NaN or infinity; {len(bad)} of {len(embeddings)} items); "
            "check that item's text and the encoder's weights"
        )


def _has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 products run in hardware; emulated ones are slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_bf16()


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keep the libraries' progress bars and hints out of the terminal while a model loads."""
    progress_bar = transformers_logging.is_progress_bar_enabled()
    library_log = logging.getLogger("sentence_transformers")
    level = library_log.level
    transformers_logging.disable_progress_bar()
    library_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library_log.setLevel(level)
        if progress_bar:
            transformers_logging.enable_progress_bar()
