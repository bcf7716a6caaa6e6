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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import DTYPES, LEVELS, THOUGHTS, begin, hardware, rollout_flop
from setting import Bench
from torch import Tensor
from training import training
from transformers.modeling_outputs import BaseModelOutput

from streamrec_dist.decode.beam import beam_search
from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.candidates import PrefixTree, candidate_log_probs, prefix_trees
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.graphs import Graphed
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import shift_right
from streamrec_dist.tokens import FIRST_CODE

BEAM = 20


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


def main() -> None:
    arguments = _arguments()
    begin(arguments.threads)
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
    result |= {
        "params": parameters,
        "hardware": hardware(arguments.hardware, bench.device, arguments.threads),
        "torch": torch.__version__,
        "parts": found,
    }
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
