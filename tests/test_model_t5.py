"""The backbone against transformers' T5, in both directions of conversion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import T5ForConditionalGeneration

from streamrec_dist.config import Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.errors import DataError
from streamrec_dist.model.backbone import StreamRec, shift_right, token_log_probs
from streamrec_dist.model.convert import from_t5, t5_config, to_t5
from streamrec_dist.model.layers import dropout
from streamrec_dist.tokens import FIRST_CODE


def small_config() -> Config:
    return parse_config(
        "items: {levels: 3, codes: 16}\n"
        "model: {softmax: codes, d_model: 32, layers: 2, heads: 2, d_head: 8, d_ff: 64}",
        "test",
    )


def example(config: Config, prompts: int = 5, history: int = 40, length: int = 7):
    generator = torch.Generator().manual_seed(3)
    high = FIRST_CODE + config.items.levels * config.items.codes
    tokens = torch.randint(FIRST_CODE, high, (prompts, history), generator=generator)
    tokens[0, 3:] = 0
    tokens[1, 17:] = 0
    labels = torch.randint(FIRST_CODE, high, (prompts, length), generator=generator)
    return tokens, labels


def our_logits(model: StreamRec, tokens: torch.Tensor, labels: torch.Tensor, stack) -> torch.Tensor:
    memory = model.read(tokens, stack)
    hidden, _ = model.decode(shift_right(labels)[:, None], memory, stack=stack)
    return model.logits(hidden)[:, 0]


def their_logits(t5: T5ForConditionalGeneration, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    output = t5(input_ids=tokens, attention_mask=(tokens != 0).long(), decoder_input_ids=shift_right(labels))
    return output.logits


@pytest.mark.parametrize("stack", ["thinking", "direct"])
def test_logits_and_loss_equal_t5_made_from_ours(stack):
    torch.manual_seed(0)
    config = small_config()
    model = StreamRec(config).eval()
    tokens, labels = example(config)
    with torch.no_grad():
        ours = our_logits(model, tokens, labels, stack)
        theirs = their_logits(to_t5(model, config, stack), tokens, labels)[..., FIRST_CODE:]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
        hidden, _ = model.decode(shift_right(labels)[:, None], model.read(tokens, stack), stack=stack)
        loss = -token_log_probs(model, hidden[:, 0], labels).mean()
        expected = F.cross_entropy(theirs.flatten(0, 1), (labels - FIRST_CODE).flatten())
        torch.testing.assert_close(loss, expected, atol=1e-4, rtol=0)


def test_ours_made_from_t5_gives_its_logits_and_gradients():
    torch.manual_seed(1)
    config = small_config()
    t5 = T5ForConditionalGeneration(t5_config(config)).eval()
    model, made = from_t5(t5, config.items.levels, config.items.codes)
    assert made.model.d_ff == 64
    tokens, labels = example(config)
    ours = our_logits(model, tokens, labels, "thinking")
    theirs = their_logits(t5, tokens, labels)[..., FIRST_CODE:]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    targets = (labels - FIRST_CODE).flatten()
    F.cross_entropy(ours.flatten(0, 1), targets).backward()
    F.cross_entropy(theirs.flatten(0, 1), targets).backward()
    torch.testing.assert_close(model.embed.weight.grad, t5.shared.weight.grad, atol=1e-5, rtol=1e-3)
    q = t5.encoder.block[1].layer[0].SelfAttention.q.weight.grad
    torch.testing.assert_close(
        model.encoder.layers[1].attention.qkv.weight.grad[:16], q, atol=1e-5, rtol=1e-3
    )
    bias = t5.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad
    torch.testing.assert_close(model.decoder.bias.weight.grad, bias, atol=1e-5, rtol=1e-3)


def test_conversion_refuses_another_shape():
    config = small_config()
    t5 = T5ForConditionalGeneration(t5_config(config))
    with pytest.raises(DataError, match="50 tokens; 4 levels of 16 codes need 66"):
        from_t5(t5, 4, 16)


def test_grouped_rows_and_cache_equal_separate_rows():
    torch.manual_seed(2)
    config = small_config()
    model = StreamRec(config).eval()
    tokens, _ = example(config, prompts=3)
    rows = torch.randint(FIRST_CODE, 50, (3, 4, 6))
    with torch.no_grad():
        memory = model.read(tokens)
        grouped, _ = model.decode(rows, memory)
        first, cache = model.decode(rows[:, :, :2], memory)
        second, cache = model.decode(rows[:, :, 2:], memory, cache)
        assert cache.length == 6
        torch.testing.assert_close(torch.cat([first, second], dim=2), grouped, atol=1e-5, rtol=1e-4)
        for r in range(4):
            alone, _ = model.decode(rows[:, r : r + 1], memory)
            torch.testing.assert_close(grouped[:, r : r + 1], alone, atol=1e-5, rtol=1e-4)


def test_padding_a_history_changes_nothing():
    torch.manual_seed(2)
    config = small_config()
    model = StreamRec(config).eval()
    tokens, labels = example(config, prompts=3)
    tokens[:, 12:] = 0
    with torch.no_grad():
        short = our_logits(model, tokens[:, :12], labels[:3], "thinking")
        padded = our_logits(model, tokens, labels[:3], "thinking")
    torch.testing.assert_close(short, padded, atol=1e-5, rtol=1e-4)


def test_dropout_keeps_the_mean_and_drops_its_share():
    torch.manual_seed(0)
    x = torch.ones(400, 1000)
    dropped = dropout(x, 0.25, training=True)
    assert abs((dropped == 0).float().mean().item() - 0.25) < 0.005
    assert abs(dropped.mean().item() - 1) < 0.01
    assert dropout(x, 0.25, training=False) is x
