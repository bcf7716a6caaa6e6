"""k-means, residual quantiser and RQ-VAE on problems with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamrec_dist.errors import ConfigError, DataError, RunError
from streamrec_dist.items.kmeans import kmeans, squared_distances
from streamrec_dist.items.quantizer import ResidualQuantizer
from streamrec_dist.items.residual_kmeans import fit_residual_kmeans
from streamrec_dist.items.rqvae import RQVAE, train_rqvae
from streamrec_dist.items.tokenizer import TokenizerOptions

SMALL = TokenizerOptions(levels=3, codes=8, latent=8, hidden=(32,), epochs=40, batch=64, lr=3e-3)


def blobs(per_blob: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [8 * per_blob, 16] around eight far-apart centres, and the centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(8, 16, generator=generator)
    noise = 0.1 * torch.randn(8, per_blob, 16, generator=generator)
    return (centres[:, None] + noise).flatten(0, 1), centres


def test_squared_distances_equal_a_loop():
    points, centres = torch.randn(5, 3), torch.randn(4, 3)
    expected = torch.tensor([[float(((p - c) ** 2).sum()) for c in centres] for p in points])
    torch.testing.assert_close(squared_distances(points, centres), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_finds_separated_blobs(seed):
    points, _ = blobs()
    means = points.view(8, 20, 16).mean(1)
    found = kmeans(points, 8, torch.Generator().manual_seed(seed))
    matched = squared_distances(means, found).argmin(1)
    assert sorted(matched.tolist()) == list(range(8))
    torch.testing.assert_close(found[matched], means, atol=1e-4, rtol=1e-4)


def test_kmeans_lowers_the_distortion_with_every_iteration():
    points = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    distortion = [
        squared_distances(points, kmeans(points, 20, torch.Generator().manual_seed(2), steps))
        .min(1)
        .values.sum()
        for steps in (0, 1, 5, 20)
    ]
    assert distortion == sorted(distortion, reverse=True)
    assert distortion[-1] < distortion[0]


@pytest.mark.parametrize("points", [torch.ones(50, 3), torch.eye(3), torch.zeros(1, 3)])
def test_kmeans_stands_fewer_distinct_points_than_clusters(points):
    found = kmeans(points, 8, torch.Generator().manual_seed(0))
    assert found.shape == (8, 3)
    assert squared_distances(points, found).min(1).values.max() < 1e-6
    # Clusters that no point chose stand on points too.
    assert squared_distances(found, points).min(1).values.max() < 1e-6


def quantise_by_loop(
    latent: np.ndarray, codebooks: np.ndarray, beta: float
) -> tuple[np.ndarray, float, list]:
    """Section 2.2.1 word by word for one batch: sum of codewords, eq. 6, codes."""
    totals, loss, codes = np.zeros_like(latent), 0.0, []
    for row, z in enumerate(latent):
        h, picked = z.copy(), []
        for codebook in codebooks:
            c = min(range(len(codebook)), key=lambda k: float(((h - codebook[k]) ** 2).sum()))
            loss += (1 + beta) * float(((h - codebook[c]) ** 2).sum()) / len(latent)
            totals[row] += codebook[c]
            h = h - codebook[c]
            picked.append(c)
        codes.append(picked)
    return totals, loss, codes


def quantiser(levels: int = 3, codes: int = 6, latent: int = 4) -> ResidualQuantizer:
    module = ResidualQuantizer(levels, codes, latent, beta=0.25)
    with torch.no_grad():
        module.codebooks.normal_(generator=torch.Generator().manual_seed(3))
    return module


def test_residual_quantisation_equals_a_loop():
    module, latent = quantiser(), torch.randn(10, 4, generator=torch.Generator().manual_seed(4))
    quantised, loss, codes = module(latent)
    totals, expected_loss, expected_codes = quantise_by_loop(
        latent.numpy(), module.codebooks.detach().numpy(), 0.25
    )
    torch.testing.assert_close(quantised, torch.from_numpy(totals), atol=1e-5, rtol=1e-5)
    assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
    assert codes.tolist() == expected_codes
    torch.testing.assert_close(
        module.residual_before(latent, codes), latent - quantised, atol=1e-5, rtol=1e-5
    )


def test_gradients_follow_the_stop_gradients_of_eq_6():
    module = quantiser(levels=2)
    latent = torch.randn(7, 4, generator=torch.Generator().manual_seed(5), requires_grad=True)
    _, loss, codes = module(latent)
    loss.backward()
    expected_latent, expected_books = torch.zeros(7, 4), torch.zeros_like(module.codebooks)
    for row in range(7):
        h = latent.detach()[row]
        for level in range(2):
            gap = h - module.codebooks.detach()[level, codes[row, level]]
            expected_latent[row] += 0.25 * 2 * gap / 7
            expected_books[level, codes[row, level]] -= 2 * gap / 7
            h = gap
    torch.testing.assert_close(latent.grad, expected_latent)
    torch.testing.assert_close(module.codebooks.grad, expected_books)


def test_reconstruction_gradient_goes_straight_through():
    module = quantiser()
    latent = torch.randn(5, 4, requires_grad=True)
    (module(latent)[0] * torch.arange(4.0)).sum().backward()
    torch.testing.assert_close(latent.grad, torch.arange(4.0).expand(5, 4))
    assert module.codebooks.grad is None


def test_dead_codes_move_onto_residuals_and_live_ones_stay():
    module, latent = quantiser(), torch.randn(50, 4)
    before = module.codebooks.detach().clone()
    usage = torch.ones(3, 6, dtype=torch.long)
    usage[0, 2] = usage[1, 5] = 0
    assert module.restart_dead_codes(usage, latent, torch.Generator().manual_seed(0)) == 2
    after = module.codebooks.detach()
    assert squared_distances(after[0, 2:3], latent).min() < 1e-8
    first_residual = latent - before[0, squared_distances(latent, before[0]).argmin(1)]
    assert squared_distances(after[1, 5:6], first_residual).min() < 1e-8
    assert torch.equal(after[usage > 0], before[usage > 0])


def test_training_separates_blobs_and_reconstructs_them():
    points, _ = blobs()
    progress: list[dict] = []
    model = train_rqvae(points, SMALL, progress.append)
    first_codes = model.encode(points)[:, 0].view(8, 20)
    assert (first_codes == first_codes[:, :1]).all()
    assert len(set(first_codes[:, 0].tolist())) == 8
    assert [p["epoch"] for p in progress] == list(range(1, 41))
    assert progress[-1]["epochs"] == 40
    assert progress[-1]["recon"] < 0.5 * progress[0]["recon"]
    assert len(progress[-1]["used_codes"]) == SMALL.quantised_levels == 2
    assert progress[-1]["used_codes"][0] == 8


def test_kmeans_places_the_first_codewords():
    points, _ = blobs()
    untrained = train_rqvae(points, TokenizerOptions(**{**vars(SMALL), "epochs": 1, "lr": 1e-12}))
    first_codes = untrained.encode(points)[:, 0].view(8, 20)
    assert (first_codes == first_codes[:, :1]).all()
    assert len(set(first_codes[:, 0].tolist())) == 8
    # The second codebook holds centroids of what the first leaves over, so it explains part of that.
    latents = untrained.latents(points).detach()
    after_first, after_both = (
        untrained.quantizer.residual_before(latents, untrained.encode(points)[:, :levels]).pow(2).sum()
        for levels in (1, 2)
    )
    assert after_both < 0.7 * after_first


def test_equal_seeds_give_equal_models_and_leave_the_global_generator_alone():
    points, _ = blobs()
    torch.manual_seed(11)
    expected_draw = torch.rand(1)
    torch.manual_seed(11)
    first = train_rqvae(points, SMALL)
    assert torch.equal(torch.rand(1), expected_draw)
    second = train_rqvae(points.numpy(), SMALL)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    other = train_rqvae(points, TokenizerOptions(**{**vars(SMALL), "seed": 1}))
    assert not torch.equal(first.quantizer.codebooks, other.quantizer.codebooks)


def test_dead_code_restart_keeps_codes_in_use():
    points = torch.randn(400, 16, generator=torch.Generator().manual_seed(6))
    progress: list[dict] = []
    train_rqvae(points, TokenizerOptions(**{**vars(SMALL), "codes": 32}), progress.append)
    assert min(progress[-1]["used_codes"]) >= 30


def test_reconstruction_loss_is_the_share_of_variance_lost():
    points, _ = blobs()
    model = RQVAE(16, SMALL)
    model.fit_scale(points)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        # A decoder that always answers with the mean loses all the variance.
        assert model(points).recon.item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("points", [torch.ones(30, 4), torch.randn(1, 4), torch.zeros(3, 4)])
def test_items_that_are_equal_or_few_train_without_trouble(points, epochs):
    model = train_rqvae(points, TokenizerOptions(**{**vars(SMALL), "epochs": epochs}))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert model.encode(points).shape == (len(points), 2)


def test_no_items_are_refused():
    with pytest.raises(DataError, match="catalogue is empty"):
        train_rqvae(np.zeros((0, 4), dtype=np.float32), SMALL)


def test_a_diverging_loss_is_reported():
    with pytest.raises(RunError, match=r"loss is .* in epoch"):
        train_rqvae(blobs()[0], TokenizerOptions(**{**vars(SMALL), "lr": 1e18}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"collisions": "hash"}, "items.collisions: 'hash', expected digit or sinkhorn"),
        ({"levels": 1}, "items.levels: 1, expected at least 2 with digit"),
        ({"levels": 0, "collisions": "sinkhorn"}, "items.levels: 0, expected at least 1"),
        ({"codes": 0}, "items.codes: 0"),
    ],
)
def test_options_out_of_range_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        TokenizerOptions(**values)


@pytest.mark.parametrize(
    "changes", [{"distance": "cosine"}, {"balance": 0.05}, {"method": "kmeans", "latent": 16}]
)
def test_variants_separate_blobs_too(changes):
    points, _ = blobs()
    chosen = TokenizerOptions(**{**vars(SMALL), **changes})
    model = fit_residual_kmeans(points, chosen) if chosen.method == "kmeans" else train_rqvae(points, chosen)
    first_codes = model.encode(points)[:, 0].view(8, 20)
    assert (first_codes == first_codes[:, :1]).all()
    assert len(set(first_codes[:, 0].tolist())) == 8
    assert model.lost_variance(points) < 0.5


def test_cosine_distance_ignores_length():
    module = ResidualQuantizer(1, 6, 4, beta=0.25, distance="cosine")
    with torch.no_grad():
        module.codebooks.normal_(generator=torch.Generator().manual_seed(3))
    latent = torch.randn(20, 4, generator=torch.Generator().manual_seed(4))
    cosines = torch.nn.functional.cosine_similarity(latent[:, None], module.codebooks[0][None], dim=-1)
    assert torch.equal(module(latent)[2][:, 0], cosines.argmax(1))
    assert torch.equal(module(5 * latent)[2], module(latent)[2])


def test_balance_spreads_the_codes_of_a_training_batch():
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(256, 4, generator=generator) * torch.tensor([3.0, 0.1, 0.1, 0.1])
    module = ResidualQuantizer(1, 16, 4, beta=0.25, balance=0.02)
    with torch.no_grad():
        module.codebooks.normal_(generator=generator)
    spread = torch.bincount(module.train()(latent)[2][:, 0], minlength=16)
    nearest = torch.bincount(module.eval()(latent)[2][:, 0], minlength=16)
    assert spread.min() >= 8 and spread.max() <= 24
    assert nearest.max() > 40


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10, 11])
def test_any_number_of_steps_has_a_schedule(epochs):
    points, _ = blobs()
    losses: list[float] = []
    for batch in (200, 80):
        chosen = TokenizerOptions(levels=3, codes=8, latent=8, hidden=(32,), epochs=epochs, batch=batch)
        train_rqvae(points, chosen, lambda progress: losses.append(progress["loss"]))
    assert len(losses) == 2 * epochs and np.isfinite(losses).all()


def test_alignment_draws_codes_to_behaviour():
    generator = torch.Generator().manual_seed(0)
    points = 2 * torch.randn(300, 16, generator=generator)
    kinds = torch.arange(300) % 4
    # The kinds lie in directions of little variance, which reconstruction alone does not care about.
    points[:, :4] = torch.eye(4)[kinds] + 0.05 * points[:, :4]
    behaviour = torch.eye(4)[kinds] + 0.01 * torch.randn(300, 4, generator=generator)

    def purity(weight: float) -> float:
        chosen = TokenizerOptions(**{**vars(SMALL), "alignment": weight, "epochs": 60})
        first = train_rqvae(points, chosen, behaviour=behaviour).encode(points)[:, 0]
        table = torch.zeros(8, 4).index_put_((first, kinds), torch.ones(300), accumulate=True)
        return float(table.max(1).values.sum() / 300)

    assert purity(5.0) > purity(0.0) + 0.2
