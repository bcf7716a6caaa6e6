"""How decoding grows with samples a prompt, history, beam, catalogue and candidates: one process, medians.

    python benchmarks/decode_growth.py --json
    python benchmarks/decode_growth.py --parts beams catalogues --device cuda --dtype bf16

Random ids and random weights of the paper's size; no data set is needed. `ratio` is time over that of the first row;
`gflop` counts the products with weights. Prints a table a part, and with --json one object last.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from measure import (
    DTYPES,
    HISTORY,
    LEVELS,
    THOUGHTS,
    PeakBytes,
    begin,
    decoding_flop,
    hardware,
    reading_flop,
    rollout_flop,
    tensor_bytes,
)
from subject import Subject
from torch import Tensor

from streamrec_dist.decode.beam import beam_search
from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.candidates import PrefixTree, candidate_log_probs, prefix_trees
from streamrec_dist.decode.graphs import Graphed
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample
from streamrec_dist.decode.search import Plan, search
from streamrec_dist.items.catalogue import Catalogue

BEAM, BEAM_PROMPTS, BEAM_ITEMS = 20, 32, 10_000
CANDIDATE_PROMPTS, CANDIDATE_ROLLOUTS = 32, 8
Row = dict[str, Any]


def samples(subject: Subject) -> Iterator[Row]:
    """Rollouts of full histories; what a prompt's samples share is the reading of its history."""
    prompts = subject.arguments.prompts
    for group in subject.arguments.samples:
        once = reading_flop(subject.config, prompts * HISTORY * LEVELS)
        flop = rollout_flop(subject.config, prompts, group)
        alone = rollout_flop(subject.config, prompts, 1)
        yield {
            "samples": group,
            **_rollout(subject, HISTORY, group),
            "gflop": flop / 1e9,
            # Of what a sample alone takes, how much a prompt's samples do together; and what that saves.
            "shared_share": once / alone,
            "saved_share": 1 - flop / (group * alone),
        }


def histories(subject: Subject) -> Iterator[Row]:
    """Rollouts after histories of several lengths."""
    prompts, group = subject.arguments.prompts, subject.arguments.group
    for items in subject.arguments.histories:
        flop = rollout_flop(subject.config, prompts, group, items)
        yield {"history": items, **_rollout(subject, items, group), "gflop": flop / 1e9}


def _rollout(subject: Subject, items: int, group: int) -> Row:
    prompts, chunk, length = subject.arguments.prompts, subject.arguments.chunk, THOUGHTS + LEVELS
    history = subject.histories(prompts, items).cpu().numpy()
    uniforms = rollout_uniforms(1, np.arange(prompts), group, length)
    engine = subject.engine

    def sampled(history: Tensor, uniforms: Tensor) -> dict[str, Tensor]:
        return {"tokens": sample(engine, engine.read(history), uniforms, THOUGHTS).tokens}

    # As workers run it: on CUDA by graphs.
    graphed = Graphed(sampled, subject.device)

    def work() -> None:
        for first in range(0, prompts, chunk):
            graphed(history[first : first + chunk], uniforms[first : first + chunk])
        graphed.wait()

    seconds = subject.seconds(work)
    return {"seconds": seconds, "tokens_per_s": prompts * group * length / seconds}


def beams(subject: Subject) -> Iterator[Row]:
    """Beam searches of several widths over a catalogue of 10,000 items."""
    catalogue = Catalogue(subject.ids(BEAM_ITEMS), subject.codes).to(subject.device)
    reading = reading_flop(subject.config, BEAM_PROMPTS * HISTORY * LEVELS)
    for beam in subject.arguments.beams:
        decoded = BEAM_PROMPTS * (1 + beam * (LEVELS - 1))
        flop = reading + decoding_flop(subject.config, decoded)
        yield {"beam": beam, **_search(subject, catalogue, beam), "gflop": flop / 1e9}


def catalogues(subject: Subject) -> Iterator[Row]:
    """The same beam search over catalogues of several sizes, and what those take to build and to hold."""
    for items in subject.arguments.catalogues:
        ids = subject.ids(items)
        started = time.perf_counter()
        catalogue = Catalogue(ids, subject.codes)
        building = time.perf_counter() - started
        catalogue = catalogue.to(subject.device)
        yield {
            "items": items,
            **_search(subject, catalogue, BEAM),
            "building_s": building,
            "catalogue_bytes": tensor_bytes(vars(catalogue)),
        }


def _search(subject: Subject, catalogue: Catalogue, beam: int) -> Row:
    history = subject.histories(BEAM_PROMPTS, HISTORY)

    def start() -> Branches:
        return Branches.start(subject.engine, subject.engine.read(history), beam * (LEVELS - 1))

    seconds = subject.seconds(lambda: beam_search(start(), catalogue, beam))
    started = start()
    with PeakBytes() as held:
        beam_search(started, catalogue, beam)
    # All that the search makes and holds at once, beside the encoded prompts and their room for decoded tokens.
    return {"seconds": seconds, "search_bytes": held.peak}


def candidates(subject: Subject) -> Iterator[Row]:
    """A target and N random items after each of 8 rollouts of 32 prompts, whose thoughts are there already."""
    prompts, group, engine = CANDIDATE_PROMPTS, CANDIDATE_ROLLOUTS, subject.engine
    uniforms = rollout_uniforms(1, np.arange(prompts), group, THOUGHTS + LEVELS)
    history = subject.histories(prompts, HISTORY)
    drawn = sample(engine, engine.read(history), torch.from_numpy(uniforms).to(subject.device), THOUGHTS)
    ids = subject.ids(BEAM_ITEMS)
    for negatives in subject.arguments.negatives:
        chosen = ids[np.random.default_rng(1).integers(0, len(ids), (prompts, 1 + negatives))]
        tokens = subject.tokens(chosen)
        nodes = sum(len(np.unique(of[:, :depth], axis=0)) for of in chosen for depth in range(1, LEVELS))
        yield {
            "negatives": negatives,
            "seconds": subject.seconds(partial(_score, subject, drawn.thinking.branches, tokens)),
            "gflop": decoding_flop(subject.config, nodes * group) / 1e9,
        }


def _score(subject: Subject, thoughts: Branches, tokens: Tensor) -> Tensor:
    built = prefix_trees(tokens.cpu())
    trees = [PrefixTree(*(field.to(subject.device) for field in tree)) for tree in built]
    return candidate_log_probs(thoughts, tokens, trees)


def thoughts(subject: Subject) -> Iterator[Row]:
    """Beams of 20 after thoughts found in every way: none, the likeliest, 8 samples, one beam over all."""
    catalogue = Catalogue(subject.ids(BEAM_ITEMS), subject.codes).to(subject.device)
    for plan in (
        Plan(),
        Plan("greedy", THOUGHTS),
        Plan("sampled", THOUGHTS, samples=8),
        Plan("beam", THOUGHTS),
    ):
        seconds = subject.seconds(partial(_ranked, subject, catalogue, plan))
        way = plan.thoughts if plan.steps else "direct"
        yield {"way": way, "seconds": seconds, "ms_a_prompt": seconds * 1e3 / BEAM_PROMPTS}


def _ranked(subject: Subject, catalogue: Catalogue, plan: Plan) -> None:
    engine = subject.engine
    uniforms = torch.from_numpy(rollout_uniforms(0, np.arange(BEAM_PROMPTS), plan.rows, plan.steps))
    # As many rows together for each way, as the stages do.
    together = BEAM_PROMPTS // plan.rows
    parts = zip(
        subject.histories(BEAM_PROMPTS, HISTORY).split(together),
        uniforms.to(subject.device).split(together),
        strict=True,
    )
    for history, drawn in parts:
        prompts = engine.read(history, "thinking" if plan.steps else "direct")
        search(engine, prompts, catalogue, BEAM, plan, drawn)


PARTS = {
    "samples": samples,
    "histories": histories,
    "beams": beams,
    "catalogues": catalogues,
    "candidates": candidates,
    "thoughts": thoughts,
}


@torch.no_grad()
def main() -> None:
    arguments = _arguments()
    begin(arguments.threads)
    subject = Subject(arguments)
    found: dict[str, list[Row]] = {}
    for name in arguments.parts:
        rows: list[Row] = []
        for row in PARTS[name](subject):
            rows.append(row | {"ratio": row["seconds"] / (rows[0] if rows else row)["seconds"]})
            if len(rows) == 1:
                print(f"\n{name}: {(PARTS[name].__doc__ or '').strip()}")
                print(" ".join(f"{column:>16s}" for column in rows[0]))
            print(" ".join(f"{_short(value):>16s}" for value in rows[-1].values()), flush=True)
        found[name] = rows
    result = {
        "parts": found,
        "dtype": arguments.dtype,
        "prompts": arguments.prompts,
        "params": sum(value.numel() for value in subject.model.parameters()),
        "hardware": hardware(arguments.hardware, subject.device, arguments.threads),
        "torch": torch.__version__,
    }
    if arguments.json:
        print(json.dumps(result))


def _short(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def sizes(name: str, *values: int, what: str) -> None:
        parser.add_argument(name, nargs="+", type=int, default=list(values), help=what)

    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    sizes("--samples", 1, 2, 4, 8, 16, 32, what="samples a prompt, G")
    sizes("--histories", 1, 5, 10, 20, 50, what="items of a history")
    sizes("--beams", 1, 5, 10, 20, 50, 100, what="widths of the beam")
    sizes("--catalogues", 10_000, 100_000, 1_000_000, 10_000_000, what="items of the catalogue")
    sizes("--negatives", 10, 50, 200, what="candidates beside the target, N")
    parser.add_argument("--prompts", type=int, default=256, help="prompts of the rollouts")
    parser.add_argument("--chunk", type=int, default=128, help="prompts decoded together")
    parser.add_argument("--group", type=int, default=8, help="samples a prompt where histories grow")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hardware", default="", help="what this runs on, for the record")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
