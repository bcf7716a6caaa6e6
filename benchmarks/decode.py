"""The engine and the training step against `transformers` and against the machine: one process, alternating, medians.

    python benchmarks/decode.py --json
    python benchmarks/decode.py --device cuda --prompts 512 --samples 16 --json

The same weights in both (model/convert.py), the paper's size. `transformers` runs in the best of its settings for
each figure (attention, cache). The rate of matrix products is the best of three shapes in the same run. Prints one
JSON object last with --json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from semantic_ids import inputs
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from streamrec_dist.config import Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import Corpus, epoch_order, history_lengths, history_tokens
from streamrec_dist.data.split import training_rows
from streamrec_dist.decode.beam import beam_search
from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.candidates import PrefixTree, candidate_log_probs, prefix_trees
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.graphs import Graphed
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample
from streamrec_dist.hardware import keep_freed_memory
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.items.foreign_ids import read_ids
from streamrec_dist.items.neighbours import nearest_neighbours
from streamrec_dist.materials import autocast
from streamrec_dist.model.backbone import StreamRec, shift_right, token_log_probs
from streamrec_dist.model.convert import to_t5
from streamrec_dist.tokens import FIRST_CODE
from streamrec_dist.training.optimiser import Optimiser

HISTORY, THOUGHTS, LEVELS, NEGATIVES, BEAM = 20, 6, 4, 50, 20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Bench:
    """What all figures share: model, data, and the clock."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.config = parse_config("", "benchmark")
        torch.manual_seed(0)
        self.model = StreamRec(self.config).to(self.device).eval()
        self.t5 = to_t5(self.model, self.config).to(self.device)
        dataset, embeddings = inputs(arguments, "Beauty")
        codes = read_ids(arguments.data / "Beauty" / "Beauty.index.json.gz").of(dataset.item_ids)
        # The 13 items that share another's id are of no account here, and a catalogue has none.
        _, first = np.unique(codes, axis=0, return_index=True)
        self.catalogue = Catalogue(codes[np.sort(first)], self.config.items.codes).to(self.device)
        self.corpus = Corpus.of(dataset, codes, self.config.items.codes, HISTORY)
        self.rows = training_rows(dataset)
        self.neighbours = nearest_neighbours(embeddings, NEGATIVES)

    def times(self, *works: Callable[[], object], repeats: int | None = None) -> list[float]:
        """Median seconds of each of `works`, run in turns."""
        seconds: list[list[float]] = [[] for _ in works]
        for turn in range((repeats or self.arguments.repeats) + 1):
            for work, kept in zip(works, seconds, strict=True):
                started = time.perf_counter()
                work()
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                if turn:  # the first turn warms up
                    kept.append(time.perf_counter() - started)
        return [statistics.median(kept) for kept in seconds]

    def full_histories(self, prompts: int) -> tuple[Tensor, np.ndarray]:
        """Histories of 20 real items int64 [prompts, 80], and a target item for each."""
        rng = np.random.default_rng(0)
        items = rng.integers(0, self.corpus.n_items, (prompts, HISTORY))
        tokens = self.corpus.item_tokens(items).reshape(prompts, -1)
        return torch.from_numpy(tokens).to(self.device), rng.integers(0, self.corpus.n_items, prompts)

    def gemm_rate(self, dtype: torch.dtype) -> float:
        """FLOP a second of the fastest of three matrix products."""
        best = 0.0
        for n, k, m in ((1024, 1024, 1024), (4096, 4096, 4096), (20480, 256, 1024)):
            x, w = (torch.randn(*shape, dtype=dtype, device=self.device) for shape in ((n, k), (k, m)))
            out = torch.empty(n, m, dtype=dtype, device=self.device)
            best = max(best, 2 * n * k * m / self.times(lambda: torch.mm(x, w, out=out), repeats=5)[0])  # noqa: B023
        return best

    def best_setting(self, dtype: torch.dtype, work: Callable[[], object]) -> str:
        """Leave T5 in `dtype` and in the attention that does `work` fastest; returns its name."""
        self.t5.to(dtype)
        seconds = {}
        for attention in ("sdpa", "eager"):
            self.t5.set_attn_implementation(attention)
            seconds[attention] = self.times(work, repeats=1)[0]
        best = min(seconds, key=lambda name: seconds[name])
        self.t5.set_attn_implementation(best)
        return best


@torch.no_grad()
def rollouts(bench: Bench) -> dict[str, Any]:
    """G samples of thoughts and an item for each of the prompts, encoder included."""
    prompts, group, length = bench.arguments.prompts, bench.arguments.samples, THOUGHTS + LEVELS
    history, _ = bench.full_histories(prompts)
    uniforms = rollout_uniforms(1, np.arange(prompts), group, length)
    found: dict[str, Any] = {}
    flop = rollout_flop(bench.config, prompts, group)
    given = history.cpu().numpy()
    for name, dtype in DTYPES.items():
        engine = Engine(bench.model, dtype)
        graphed = Graphed(partial(_sampled, engine), bench.device)

        def theirs() -> object:
            return bench.t5.generate(
                input_ids=history,
                do_sample=True,
                top_k=0,
                num_return_sequences=group,
                min_new_tokens=length,
                max_new_tokens=length,
            )

        def ours(engine: Engine = engine, graphed: Graphed = graphed) -> None:
            engine.refresh()  # as for every version of the policy
            for some in range(0, prompts, bench.arguments.chunk):
                part = slice(some, some + bench.arguments.chunk)
                graphed(given[part], uniforms[part])

        setting = bench.best_setting(dtype, theirs)
        their_s, our_s = bench.times(theirs, ours)
        rate = bench.gemm_rate(dtype)
        found[name] = {
            "tokens_per_s": prompts * group * length / our_s,
            "transformers_tokens_per_s": prompts * group * length / their_s,
            "transformers_setting": setting,
            "ratio": their_s / our_s,
            "gemm_gflop_per_s": rate / 1e9,
            "gflop": flop / 1e9,
            "gemm_share": flop / rate / our_s,
            # What a rollout that did nothing but these products would have over transformers.
            "ratio_of_products_alone": their_s / (flop / rate),
        }
    return found


def _sampled(engine: Engine, history: Tensor, uniforms: Tensor) -> dict[str, Tensor]:
    return {"tokens": sample(engine, engine.read(history), uniforms, THOUGHTS).tokens}


def rollout_flop(config: Config, prompts: int, group: int) -> float:
    """Operations of the matrix products: encoder, keys and values, decoder and logits of every sampled token."""
    model = config.model
    inner, d = model.heads * model.d_head, model.d_model
    feed = 2 * d * model.d_ff
    encoder = model.layers * (4 * d * inner + feed)
    keys_values = model.layers * 2 * d * inner
    decoder = model.layers * (6 * d * inner + feed) + d * config.items.levels * config.items.codes
    tokens = prompts * HISTORY * LEVELS
    return 2.0 * (tokens * (encoder + keys_values) + prompts * group * (THOUGHTS + LEVELS) * decoder)


@torch.no_grad()
def beams(bench: Bench) -> dict[str, Any]:
    """20 beams over the item's 4 codes for 32 prompts, encoder included: free in transformers, our trie always."""
    history, _ = bench.full_histories(32)
    allowed = _allowed(bench.catalogue)
    found: dict[str, Any] = {}
    for name, dtype in DTYPES.items():

        def theirs(**extra: Any) -> object:
            return bench.t5.generate(
                input_ids=history, num_beams=BEAM, num_return_sequences=BEAM, max_new_tokens=LEVELS, **extra
            )

        def ours(dtype: torch.dtype = dtype) -> object:
            engine = Engine(bench.model, dtype)
            start = Branches.start(engine, engine.read(history), BEAM * (LEVELS - 1))
            return beam_search(start, bench.catalogue, BEAM)

        setting = bench.best_setting(dtype, theirs)
        their_s, our_s = bench.times(theirs, ours)
        found[name] = {
            "ours_s": our_s,
            "transformers_s": their_s,
            "ratio": their_s / our_s,
            "setting": setting,
        }
        if dtype == torch.float32:
            constrained = lambda: theirs(prefix_allowed_tokens_fn=allowed)  # noqa: E731
            their_s, our_s = bench.times(constrained, ours, repeats=1)
            found["prefix_fn"] = {"transformers_s": their_s, "ratio": their_s / our_s}
    return found


def _allowed(catalogue: Catalogue) -> Callable[[int, Tensor], list[int]]:
    """The usual prefix_allowed_tokens_fn: a dictionary from prefixes to the tokens that may follow."""
    children: dict[tuple[int, ...], set[int]] = {}
    tokens = catalogue.codes.cpu() + FIRST_CODE + torch.arange(LEVELS) * catalogue.codes_per_level
    for row in tokens.tolist():
        for depth in range(LEVELS):
            children.setdefault(tuple(row[:depth]), set()).add(row[depth])
    lists = {prefix: sorted(tokens) for prefix, tokens in children.items()}
    return lambda _, sequence: lists.get(tuple(sequence.tolist()[1:]), [FIRST_CODE])


@torch.no_grad()
def candidates(bench: Bench) -> dict[str, Any]:
    """Target and 50 real hard negatives after each of 8 rollouts of 32 prompts."""
    prompts, group = 32, 8
    history, items = bench.full_histories(prompts)
    chosen = np.concatenate([items[:, None], bench.neighbours[items]], axis=1)
    tokens = torch.from_numpy(bench.corpus.item_tokens(chosen)).to(bench.device)
    uniforms = torch.from_numpy(rollout_uniforms(1, np.arange(prompts), group, THOUGHTS + LEVELS))
    found: dict[str, Any] = {}
    for name, dtype in DTYPES.items():
        engine = Engine(bench.model, dtype)
        samples = sample(engine, engine.read(history), uniforms.to(bench.device), THOUGHTS)
        states, mask = bench.model.encode(history)
        each = BaseModelOutput(last_hidden_state=states.repeat_interleave(group, 0).to(dtype))
        thoughts = samples.thinking.tokens.flatten(0, 1)
        rows = [
            torch.cat([thoughts, tokens[:, c].repeat_interleave(group, 0)], dim=-1)
            for c in range(tokens.shape[1])
        ]

        def trees(tokens: Tensor = tokens) -> list[PrefixTree]:
            built = prefix_trees(tokens.cpu())
            return [PrefixTree(*(field.to(bench.device) for field in tree)) for tree in built]

        given = {"encoder_outputs": each, "attention_mask": mask.repeat_interleave(group, 0)}

        def one(sequence: Tensor, given: dict[str, Any] = given) -> Tensor:
            logits = bench.t5(decoder_input_ids=shift_right(sequence), **given).logits[:, THOUGHTS:]
            picked = sequence[:, THOUGHTS:].unsqueeze(-1)
            return logits.float().log_softmax(-1).gather(-1, picked).sum((1, 2))

        setting = bench.best_setting(dtype, lambda: one(rows[0]))  # noqa: B023
        their_s, our_s = bench.times(
            lambda: [one(row) for row in rows],  # noqa: B023
            lambda: candidate_log_probs(samples.thinking.branches, tokens, trees()),  # noqa: B023
            repeats=2,
        )
        found[name] = {
            "ours_s": our_s,
            "transformers_s": their_s,
            "ratio": their_s / our_s,
            "setting": setting,
        }
    return found


def training(bench: Bench) -> dict[str, Any]:
    """A step on 256 rows of 80 history and 10 decoder tokens, in bf16 with fp32 weights; then on Beauty's lengths."""
    rows = 256
    history, _ = bench.full_histories(rows)
    labels = torch.randint(FIRST_CODE, bench.model.vocabulary, (rows, THOUGHTS + LEVELS), device=bench.device)
    step = _our_step(bench)
    t5 = bench.t5.float().train()
    optimizer = torch.optim.AdamW(t5.parameters(), lr=1e-4, fused=True)

    def theirs() -> None:
        with torch.autocast(bench.device.type, dtype=torch.bfloat16):
            loss = t5(input_ids=history, decoder_input_ids=shift_right(labels), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(t5.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    setting = bench.best_setting(torch.float32, theirs)
    their_s, our_s = bench.times(theirs, lambda: step(history, labels))
    rate = bench.gemm_rate(torch.bfloat16)
    flop = 3 * (rollout_flop(bench.config, rows, 1))
    found = {
        "ours_s": our_s,
        "transformers_s": their_s,
        "ratio": their_s / our_s,
        "setting": setting,
        "gemm_share": flop / rate / our_s,
    }
    t5.eval()

    lengths = history_lengths(bench.corpus, bench.rows)
    by_length = list(epoch_order(lengths, rows, 0, 0))[: bench.arguments.batches]
    any_length = np.random.default_rng(0).permutation(len(bench.rows)).reshape(-1)[: rows * len(by_length)]

    def epoch(batches: list[np.ndarray], padded: bool) -> None:
        for chosen in batches:
            tokens = history_tokens(bench.corpus, bench.rows[chosen])[0]
            if padded:
                tokens = np.pad(tokens, ((0, 0), (0, HISTORY * LEVELS - tokens.shape[1])))
            step(torch.from_numpy(tokens).to(bench.device), labels)

    seconds = bench.times(
        lambda: epoch(list(any_length.reshape(-1, rows)), True), lambda: epoch(by_length, False), repeats=2
    )
    return found | {
        "rows_vs_padded": seconds[0] / seconds[1],
        "rows_per_s": rows * len(by_length) / seconds[1],
    }


def _our_step(bench: Bench) -> Callable[[Tensor, Tensor], None]:
    model = StreamRec(bench.config).to(bench.device).train()
    trained = [(n, p) for n, p in model.named_parameters() if not n.startswith(("direct.", "heads."))]
    optimiser = Optimiser(trained, weight_decay=0.01, clip_norm=1.0)
    config = bench.config.model_copy(
        update={"model": bench.config.model.model_copy(update={"precision": "bf16"})}
    )

    def step(history: Tensor, labels: Tensor) -> None:
        with autocast(config, bench.device):
            hidden, _ = model.decode(shift_right(labels)[:, None], model.read(history))
            loss = -token_log_probs(model, hidden[:, 0], labels).mean()
        loss.backward()
        optimiser.step(1e-4)

    return step


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    bench = Bench(arguments)
    parts = {"rollouts": rollouts, "beams": beams, "candidates": candidates, "training": training}
    found = {}
    for name in arguments.parts:
        found[name] = parts[name](bench)
        print(name, json.dumps(found[name]), flush=True)
    result: dict[str, Any] = {}
    if "rollouts" in found:
        by = found["rollouts"]
        result |= {
            "rollout_vs_transformers": by["bf16"]["ratio"],
            "rollout_vs_transformers_fp32": by["fp32"]["ratio"],
            "rollout_gemm_share_fp32": by["fp32"]["gemm_share"],
            "rollout_gemm_share_bf16": by["bf16"]["gemm_share"],
        }
    if "beams" in found:
        result |= {
            "beam_vs_transformers": found["beams"]["fp32"]["ratio"],
            "beam_vs_transformers_bf16": found["beams"]["bf16"]["ratio"],
            "beam_vs_prefix_fn": found["beams"]["prefix_fn"]["ratio"],
        }
    if "candidates" in found:
        result["ranking_vs_naive"] = found["candidates"]["bf16"]["ratio"]
        result["ranking_vs_naive_fp32"] = found["candidates"]["fp32"]["ratio"]
    if "training" in found:
        result["train_step_vs_transformers"] = found["training"]["ratio"]
        result["rows_vs_padded"] = found["training"]["rows_vs_padded"]
    for name, value in result.items():
        print(f"{name:32s} {value:.2f}")
    parameters = sum(p.numel() for p in bench.model.parameters())
    hardware = (
        arguments.hardware or f"{platform.processor() or platform.machine()}, {arguments.threads} threads"
    )
    result |= {"params": parameters, "hardware": hardware, "torch": torch.__version__, "parts": found}
    if arguments.json:
        print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["rollouts", "beams", "candidates", "training"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the raw sets")
    parser.add_argument("--cache", type=Path, default=Path("runs/.semantic-ids"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--chunk", type=int, default=128, help="prompts decoded together")
    parser.add_argument("--batches", type=int, default=12, help="training batches of Beauty's lengths")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hardware", default="", help="what this runs on, for the record")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
