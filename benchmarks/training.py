"""A training step against `transformers`, and on lengths as they are against padded ones (part of decode.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import HISTORY, LEVELS, THOUGHTS, rollout_flop
from setting import Bench
from torch import Tensor

from streamrec_dist.data.batches import epoch_order, history_lengths, history_tokens
from streamrec_dist.materials import autocast
from streamrec_dist.model.backbone import StreamRec, shift_right, token_log_probs
from streamrec_dist.model.kernels import compile_kernels
from streamrec_dist.tokens import FIRST_CODE
from streamrec_dist.training.optimiser import Optimiser


def training(bench: Bench) -> dict[str, Any]:
    """A step on 256 rows of 80 history and 10 decoder tokens, in bf16 with fp32 weights; then on Beauty's lengths."""
    rows = 256
    history, _ = bench.full_histories(rows)
    labels = torch.randint(FIRST_CODE, bench.model.vocabulary, (rows, THOUGHTS + LEVELS), device=bench.device)
    step, fused = _our_step(bench), _our_step(bench)
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

    def compiled() -> None:
        compile_kernels(True, bench.device.type)
        fused(history, labels)
        compile_kernels(False)

    their_s, plain_s, our_s = bench.times(theirs, lambda: step(history, labels), compiled)
    rate = bench.gemm_rate(torch.bfloat16)
    flop = 3 * (rollout_flop(bench.config, rows, 1))
    found = {
        "ours_s": our_s,
        "transformers_s": their_s,
        "ratio": their_s / our_s,
        "plain_s": plain_s,
        "plain_ratio": their_s / plain_s,
        "setting": setting,
        "gemm_share": flop / rate / our_s,
    }
    t5.eval()

    compile_kernels(True, bench.device.type)
    lengths = history_lengths(bench.corpus, bench.rows)
    batches = sorted(epoch_order(lengths, rows, 0, 0), key=lambda batch: lengths[batch].max())
    # Quantiles of all batches of an epoch: as few as are timed would be long or short by chance.
    count = min(bench.arguments.batches, len(batches))
    by_length = [batches[len(batches) * (2 * number + 1) // (2 * count)] for number in range(count)]
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
    compile_kernels(False)
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
