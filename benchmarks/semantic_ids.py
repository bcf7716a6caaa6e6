"""Semantic ids of several kinds, and what the direct decoder learns from each in the same number of steps.

    python benchmarks/semantic_ids.py --data ../shared/data --sets Beauty Scientific --seeds 1 2 3

For each set, method and seed: the report on the ids, then a small direct decoder trained on them and ranked on the
validation items of a fixed choice of users. Results are added to --out as they come; what is there is not run again.
Prints a table of means over seeds last. Selection is on validation only; the test column is for the record.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamrec_dist.config import Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import Corpus
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.files import load_dataset
from streamrec_dist.data.prepare import prepare
from streamrec_dist.data.split import split_rows, training_part, training_rows
from streamrec_dist.hardware import resolve_precision
from streamrec_dist.items.encoder import load_encoder
from streamrec_dist.items.foreign_ids import read_ids
from streamrec_dist.items.shards import EmbeddingShards
from streamrec_dist.materials import Materials
from streamrec_dist.metrics import ranking_metrics
from streamrec_dist.rundir import write_atomically
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.stages.tokenize import Clock, Tokenized, item_vectors, take_ids, tokenize
from streamrec_dist.training.learner import Learner, steps_per_epoch

#: Method -> items section of the configuration, beside PLAIN.
METHODS: dict[str, dict[str, Any]] = {
    "letter": {"ids": "Beauty.index.json.gz"},
    "kmeans-digit": {"method": "kmeans", "collisions": "digit"},
    "kmeans-balanced": {"method": "kmeans", "balance": 0.05},
    "kmeans-joined-balanced": {"method": "kmeans", "balance": 0.05, "behaviour": {"weight": 1.0}},
    "rqvae": {},
    "rqvae-digit": {"collisions": "digit"},
    "rqvae-aligned": {"behaviour": {"weight": 0.0, "alignment": 1.0}},
    "rqvae-joined-0.5": {"behaviour": {"weight": 0.5}},
    "rqvae-joined": {"behaviour": {"weight": 1.0}},
    "rqvae-joined-1.5": {"behaviour": {"weight": 1.5}},
    "rqvae-joined-2": {"behaviour": {"weight": 2.0}},
    "rqvae-joined-balanced": {"balance": 0.05, "behaviour": {"weight": 1.0}},
}
#: What a method leaves out: ids of texts alone, collisions re-assigned.
PLAIN: dict[str, Any] = {"method": "rqvae", "collisions": "sinkhorn", "behaviour": {"weight": 0.0}}
MODEL = """\
model: {softmax: codes, d_model: 128, layers: 2, heads: 4, d_head: 32, d_ff: 512, dropout: 0.2}
stages:
  tokenize: {epochs: 200}
  pretrain: {epochs: 1, batch: 128, retrieved: 0, lr: 0.002}
"""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    results = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    for name in arguments.sets:
        dataset, embeddings = inputs(arguments, name)
        for method in arguments.methods:
            if method == "letter" and name != "Beauty":
                continue
            for seed in arguments.seeds:
                key = {"set": name, "method": method, "seed": seed, "steps": arguments.steps}
                if any(all(row[field] == value for field, value in key.items()) for row in results):
                    continue
                row = key | _measure(arguments, name, dataset, embeddings, method, seed)
                print(json.dumps(row), flush=True)
                results.append(row)
                write_atomically(arguments.out, json.dumps(results, indent=1))
    print("\n".join(table(results)))


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown, the best of each set first; a de-duplication digit is left out of codes and perplexity."""
    columns = "set | method | seeds | codes used | perplexity | surplus"
    columns += " | N@10 valid (range) | R@10 valid (seeds) | N@10 test"
    yield f"| {columns} |"
    yield "|---" * (columns.count("|") + 1) + "|"
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["set"], row["method"]), []).append(row)

    def mean(rows: list[dict[str, Any]], field: str) -> float:
        return sum(row[field] for row in rows) / len(rows)

    def recall(rows: list[dict[str, Any]]) -> str:
        known = [row for row in rows if "direct_recall@10" in row]
        return f"{mean(known, 'direct_recall@10'):.4f} ({len(known)})" if known else ""

    for (name, method), rows in sorted(
        groups.items(), key=lambda group: (group[0][0], -mean(group[1], "direct_ndcg@10"))
    ):
        levels = -1 if METHODS[method].get("collisions") == "digit" else None
        used = min(min(row["codes_used"][:levels]) for row in rows)
        perplexity = min(min(row["perplexity"][:levels]) for row in rows)
        valid = [row["direct_ndcg@10"] for row in rows]
        yield (
            f"| {name} | {method} | {len(rows)} | {used} | {perplexity:.0f} | {mean(rows, 'surplus_share'):.2%} | "
            f"{mean(rows, 'direct_ndcg@10'):.4f} ({min(valid):.4f} to {max(valid):.4f}) | "
            f"{recall(rows)} | "
            f"{mean(rows, 'direct_test_ndcg@10'):.4f} |"
        )


def inputs(arguments: argparse.Namespace, name: str) -> tuple[Dataset, np.ndarray]:
    """The prepared set and its text embeddings, kept in --cache."""
    folder = arguments.cache / name
    if not (folder / "dataset" / "dataset.json").is_file():
        prepare(arguments.data / name, "lcrec", folder / "dataset")
    dataset = load_dataset(folder / "dataset")
    shards = EmbeddingShards(folder / "embeddings")
    missing = shards.begin({"data": dataset.content_hash, "items": dataset.n_items})
    encoder = load_encoder("all-MiniLM-L6-v2") if missing else None
    for first, last in missing:
        assert encoder is not None
        shards.write(first, encoder.encode([dataset.texts[item] for item in range(first, last)]))
    return dataset, shards.load(dataset.n_items)


def _measure(
    arguments: argparse.Namespace,
    name: str,
    dataset: Dataset,
    embeddings: np.ndarray,
    method: str,
    seed: int,
) -> dict[str, Any]:
    config = _config(method, seed)
    started = time.monotonic()
    made = _ids(arguments, name, dataset, embeddings, method, config)
    id_minutes = (time.monotonic() - started) / 60
    materials = Materials(
        config,
        Corpus.of(dataset, made.codes, config.items.codes, config.data.max_history),
        made.neighbours,
        training_rows(dataset),
    )
    started = time.monotonic()
    learner = _train(materials, arguments.steps)
    recommender = Recommender(materials, learner.model, "direct")
    report = made.report
    return {
        "codes_used": report["used_codes"],
        "perplexity": [round(value, 1) for value in report["perplexity"]],
        "surplus_share": round(report["surplus_share"], 5),
        "largest_group": report["largest_group"],
        "recon": report.get("recon"),
        "prefixes": report["prefixes"],
        **_accuracy(recommender, dataset, "valid", arguments.users, "direct"),
        **_accuracy(recommender, dataset, "test", arguments.users, "direct_test"),
        "users": min(arguments.users, dataset.users),
        "minutes": {"ids": round(id_minutes, 2), "training": round((time.monotonic() - started) / 60, 2)},
        "hardware": arguments.hardware,
    }


def _config(method: str, seed: int) -> Config:
    config = parse_config(MODEL, "benchmark").model_dump()
    items = PLAIN | {key: value for key, value in METHODS[method].items() if key != "ids"}
    config["items"] |= items | {"behaviour": config["items"]["behaviour"] | items["behaviour"]}
    config["seed"] = seed
    return resolve_precision(Config.model_validate(config), gpus=torch.cuda.is_available())


def _ids(
    arguments: argparse.Namespace,
    name: str,
    dataset: Dataset,
    embeddings: np.ndarray,
    method: str,
    config: Config,
) -> Tokenized:
    items, offsets = training_part(dataset)
    given = METHODS[method].get("ids")
    if given:
        vectors = item_vectors(embeddings, items, offsets, config)
        codes = read_ids(arguments.data / name / given).of(dataset.item_ids)
        return take_ids(vectors, codes, config, Clock())
    return tokenize(embeddings, items, offsets, config, lambda progress: None)


def _train(materials: Materials, steps: int) -> Learner:
    learner = Learner(materials)
    learner.begin("pretrain", steps)
    per_epoch = steps_per_epoch(len(materials.rows), materials.config.stages.pretrain.batch)
    for first in range(0, steps, per_epoch):
        learner.train_rows(first // per_epoch, 0, min(per_epoch, steps - first))
    return learner


def _accuracy(
    recommender: Recommender, dataset: Dataset, split: str, users: int, name: str
) -> dict[str, float]:
    """{"NAME_recall@10", "NAME_ndcg@10"} of a fixed choice of users."""
    rows = split_rows(dataset, split)
    rows = rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:users])]
    found = ranking_metrics(recommender.target_ranks(rows, False), (10,))
    return {f"{name}_{metric}": round(value, 5) for metric, value in found.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the raw sets")
    parser.add_argument("--sets", nargs="+", default=["Beauty", "Scientific"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps of the direct decoder")
    parser.add_argument("--users", type=int, default=4000, help="users ranked")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("runs/.semantic-ids"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/semantic_ids.json"))
    parser.add_argument("--hardware", default="", help="what this runs on, for the record")
    return parser.parse_args()


if __name__ == "__main__":
    main()
