"""The training step's own autograd functions against transformers and plain torch, plain and compiled."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from streamrec_dist.config_file import parse_config
from streamrec_dist.model import functions, kernels
from streamrec_dist.model.backbone import StreamRec, shift_right, token_log_probs
from streamrec_dist.model.convert import from_t5, to_t5
from streamrec_dist.model.layers import MASKED
from streamrec_dist.tokens import FIRST_CODE

CONFIG = parse_config(
    "items: {levels: 3, codes: 16}\n"
    "model: {evidence: 0, softmax: codes, d_model: 32, layers: 2, heads: 2, d_head: 8, d_ff: 64}",
    "test",
)


@pytest.fixture(params=["plain", "compiled"], scope="module")
def kernel_mode(request):
    kernels.compile_kernels(request.param == "compiled")
    yield request.param
    kernels.compile_kernels(False)


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    history = torch.randint(FIRST_CODE, 50, (5, 24), generator=generator)
    history[0, 3:] = 0
    history[1, 17:] = 0
    return history, torch.randint(FIRST_CODE, 50, (5, 7), generator=generator)


def loss_of(model: StreamRec, history: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    hidden, _ = model.decode(shift_right(labels)[:, None], model.read(history))
    return -token_log_probs(model, hidden[:, 0], labels).mean()


def gradients(model: StreamRec) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if not n.startswith(("direct.", "heads."))}


def test_every_gradient_of_the_step_equals_that_of_transformers(kernel_mode):
    torch.manual_seed(0)
    model = StreamRec(CONFIG).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.uniform_(0.5, 1.5)
    t5 = to_t5(model, CONFIG)
    history, labels = example()
    loss_of(model, history, labels).backward()
    logits = t5(
        input_ids=history, attention_mask=(history != 0).long(), decoder_input_ids=shift_right(labels)
    ).logits[..., FIRST_CODE:]
    F.cross_entropy(logits.flatten(0, 1), (labels - FIRST_CODE).flatten()).backward()
    # Their gradients as weights, to be converted by name.
    named = dict(t5.named_parameters())
    holder = to_t5(StreamRec(CONFIG), CONFIG)
    with torch.no_grad():
        for name, value in holder.named_parameters():
            value.copy_(named[name].grad)
    expected = dict(from_t5(holder, 3, 16)[0].named_parameters())
    found = gradients(model)
    assert len(found) == 37
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3, msg=name)
        assert gradient.abs().max() > 0, name


def test_gradients_in_bf16_point_the_way_of_those_in_fp32(kernel_mode):
    history, labels = example()
    torch.manual_seed(0)
    model = StreamRec(CONFIG).eval()
    loss_of(model, history, labels).backward()
    exact = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, history, labels)
    loss.backward()
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32
        assert F.cosine_similarity(gradient.flatten(), exact[name].flatten(), dim=0) > 0.99, name


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_add_linear_drops_alike_forward_and_backward(kernel_mode, rate):
    torch.manual_seed(1)
    x = torch.randn(300, 40, requires_grad=True)
    y = torch.randn(300, 24, requires_grad=True)
    weight = torch.randn(40, 24, requires_grad=True)
    out = functions.AddLinear.apply(x, y, weight, rate)
    linear = y.detach() @ weight.detach().T
    mask = ((out - x) / linear).detach()
    scale = 256 / (256 - round(rate * 256))
    assert ((mask.abs() < 1e-3) | ((mask - scale).abs() < 1e-2)).all()
    mask = (mask > 0.5).float()
    assert abs((mask == 0).float().mean() - rate) < 0.02
    upstream = torch.randn_like(out)
    out.backward(upstream)
    through = upstream * (mask != 0) * scale
    torch.testing.assert_close(x.grad, upstream)
    torch.testing.assert_close(y.grad, through @ weight.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(weight.grad, through.T @ y.detach(), atol=1e-3, rtol=1e-4)


def test_relu_dropout_cuts_gradients_where_it_cut_values(kernel_mode):
    torch.manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(500, 64).to(dtype).requires_grad_()
        out = functions.ReluDropout.apply(x, 0.25)
        assert abs((out[x > 0] == 0).float().mean() - 0.25) < 0.02
        assert (out[x <= 0] == 0).all()
        out.sum().backward()
        expected = (out != 0) * (256 / 192)
        torch.testing.assert_close(x.grad, expected.to(dtype), atol=1e-2, rtol=1e-2)


def test_masks_follow_their_seed(kernel_mode):
    ones = torch.ones(257, 33)
    drop = kernels.new_drop(0.5, ones.device)
    another = drop._replace(seed=drop.seed + 1)
    first, again, other = (kernels.dropout(ones, each) for each in (drop, drop, another))
    assert torch.equal(first, again)
    same = (first == other).float().mean()
    assert 0.45 < same < 0.55
    shifted = (first.flatten()[1:] == other.flatten()[:-1]).float().mean()
    assert 0.45 < shifted < 0.55
    # Neighbours are independent of one another.
    kept = first != 0
    assert 0.2 < (kept[:, 1:] & kept[:, :-1]).float().mean() < 0.3
    assert 0.2 < (kept[1:] & kept[:-1]).float().mean() < 0.3


def test_masks_are_the_same_forward_and_backward_whatever_shapes_came_before(kernel_mode):
    shapes = [
        (3, 5),
        (1, 7),
        (2, 1, 1, 6),
        (4, 3, 2),
        (1, 1),
        (2, 3, 4, 5, 6),
        (9,),
        (1,),
        (8, 1, 16),
        (5, 2, 2, 2),
    ]
    for shape in shapes * 2:
        x = torch.rand(shape).add_(1).requires_grad_()
        out = functions.Dropout.apply(x, 0.3)
        out.sum().backward()
        assert torch.equal(x.grad != 0, out != 0)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("queries", [1, 9])
def test_attention_equals_plain_autograd(kernel_mode, queries, rows):
    torch.manual_seed(2)
    heads, d_head, keys = 2, 8, 9
    inner = heads * d_head
    padding = torch.zeros(rows, 1, 1, keys)
    padding[-1, ..., 4:] = MASKED
    q = torch.randn(rows, queries, inner, requires_grad=True)
    kv = torch.randn(rows, keys, 2 * inner, requires_grad=True)

    def plain(q, k, v, bias):
        q, k, v = (part.view(rows, -1, heads, d_head).transpose(1, 2) for part in (q, k, v))
        weights = torch.softmax(q @ k.transpose(-1, -2) + bias, dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    upstream = torch.randn(rows, queries, inner)
    ours = functions.CrossAttention.apply(q, kv, padding, heads)
    theirs = plain(q, *kv.chunk(2, dim=-1), padding)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    for found, expected in zip(
        torch.autograd.grad(ours, (q, kv), upstream),
        torch.autograd.grad(theirs, (q, kv), upstream),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    qkv = torch.randn(rows, keys, 3 * inner, requires_grad=True)
    relative = torch.randn(1, heads, keys, keys, requires_grad=True)
    upstream = torch.randn(rows, keys, inner)
    ours = functions.SelfAttention.apply(qkv, relative, padding, heads)
    theirs = plain(*qkv.chunk(3, dim=-1), relative + padding)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    for found, expected in zip(
        torch.autograd.grad(ours, (qkv, relative), upstream),
        torch.autograd.grad(theirs, (qkv, relative), upstream),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
