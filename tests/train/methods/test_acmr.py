"""ACMR's modules against loops, their behaviour under permutation, and the loss against the formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.tiny_features import ATTRIBUTES, CHANNELS, REGIONS, tiny_training_data
from zsl_train.methods.acmr import (
    PRESETS,
    Acmr,
    Config,
    Draw,
    InformationEnhancement,
    VisionSemanticAlignment,
    build,
    fit,
    weighted_losses,
)
from zsl_train.methods.base import Dims
from zsl_train.methods.dual_vae import start_xavier
from zsl_train.methods.session import Rng, Session

ROWS, LATENT, CLASSES = 7, 4, 6
DIMS = Dims(regions=REGIONS, channels=CHANNELS, attributes=ATTRIBUTES, word_width=2, classes=CLASSES)
SIZES = {
    "latent": LATENT,
    "visual_encoder_hidden": 9,
    "visual_decoder_hidden": 8,
    "semantic_encoder_hidden": 7,
    "semantic_decoder_hidden": 6,
    "gate_hidden": 5,
    "gate_orders": 3,
}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffled(module: torch.nn.Module, seed: int = 7) -> torch.nn.Module:
    """In float64, every parameter drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        parameter.data.normal_(0, 0.6, generator=generator)
    return module


@pytest.fixture
def gate() -> InformationEnhancement:
    return shuffled(InformationEnhancement(LATENT, 5, 3))


def gate_by_loops(gate: InformationEnhancement, row: np.ndarray) -> np.ndarray:
    """W of one row whose 2 Z numbers are already in the order the network sees."""
    w1, b1, w2, b2 = (p.detach().numpy() for p in gate.parameters())
    hidden = [max(0.0, sum(w1[h, i] * row[i] for i in range(2 * LATENT)) + b1[h]) for h in range(5)]
    return np.array([1 / (1 + np.exp(-(sum(w2[z, h] * hidden[h] for h in range(5)) + b2[z]))) for z in range(LATENT)])


# --- information enhancement -----------------------------------------------------------------------------------------


def test_the_gate_sees_the_features_in_the_given_order_and_multiplies_both(gate):
    mean, log_variance, order = draw(ROWS, LATENT), draw(ROWS, LATENT, seed=1), torch.tensor([3, 7, 0, 1, 6, 2, 5, 4])
    got = gate.shuffled(mean, log_variance, order)
    joined = np.concatenate([mean, log_variance], axis=1)
    for b in range(ROWS):
        w = gate_by_loops(gate, joined[b][order.numpy()])
        assert ((w > 0) & (w < 1)).all()
        np.testing.assert_allclose(got[0][b].detach(), w * mean[b].numpy(), rtol=1e-10)
        np.testing.assert_allclose(got[1][b].detach(), w * log_variance[b].numpy(), rtol=1e-10)


def test_inference_takes_the_mean_gate_over_the_fixed_orders(gate):
    mean, log_variance = draw(ROWS, LATENT), draw(ROWS, LATENT, seed=1)
    assert gate.orders.shape == (3, 2 * LATENT)
    assert len({tuple(order.tolist()) for order in gate.orders}) == 3
    single = [gate.shuffled(mean, log_variance, order) for order in gate.orders]
    for got, of_orders in zip(gate(mean, log_variance), zip(*single, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(of_orders).mean(dim=0), rtol=1e-12, atol=0)
    assert not torch.allclose(single[0][0], single[1][0], atol=1e-3)  # the order does matter


def test_the_mean_over_many_fixed_orders_is_that_over_random_ones():
    gate = shuffled(InformationEnhancement(LATENT, 5, 2000))
    mean, log_variance = draw(ROWS, LATENT), draw(ROWS, LATENT, seed=1)
    generator = torch.Generator().manual_seed(77)
    random = [
        gate.shuffled(mean, log_variance, torch.randperm(2 * LATENT, generator=generator))[0] for _ in range(2000)
    ]
    spread = torch.stack(random).std(dim=0)
    assert spread.max() > 0.05
    difference = (gate(mean, log_variance)[0] - torch.stack(random).mean(dim=0)).abs()
    assert (difference <= 5 * spread * (2 / 2000) ** 0.5 + 1e-12).all()


def test_without_orders_the_features_keep_their_own():
    gate = shuffled(InformationEnhancement(LATENT, 5, 0))
    mean, log_variance = draw(ROWS, LATENT), draw(ROWS, LATENT, seed=1)
    wanted = gate.shuffled(mean, log_variance, torch.arange(2 * LATENT))
    for got, one in zip(gate(mean, log_variance), wanted, strict=True):
        torch.testing.assert_close(got, one, rtol=1e-12, atol=0)


def test_the_fixed_orders_are_the_same_in_every_model():
    torch.manual_seed(5)
    one = InformationEnhancement(64, 99, 16).orders
    torch.manual_seed(6)
    assert torch.equal(one, InformationEnhancement(64, 99, 16).orders)
    assert all(sorted(order.tolist()) == list(range(128)) for order in one)


def test_the_gate_treats_rows_alike_but_not_dimensions(gate):
    mean, log_variance = draw(ROWS, LATENT), draw(ROWS, LATENT, seed=1)
    whole = gate(mean, log_variance)[0]
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    torch.testing.assert_close(gate(mean[order], log_variance[order])[0], whole[order])  # rows: equivariant
    torch.testing.assert_close(gate(mean[:1], log_variance[:1])[0], whole[:1])  # and independent of each other
    turned = torch.tensor([2, 0, 3, 1])
    assert not torch.allclose(gate(mean[:, turned], log_variance[:, turned])[0], whole[:, turned], atol=1e-3)


def test_the_gates_gradient_is_that_of_differences(gate):
    mean, log_variance = (draw(3, LATENT, seed=s).requires_grad_() for s in (1, 2))
    order = torch.randperm(2 * LATENT, generator=torch.Generator().manual_seed(3))
    parameters = list(gate.parameters())
    assert torch.autograd.gradcheck(lambda m, v, *_: gate.shuffled(m, v, order), (mean, log_variance, *parameters))
    assert torch.autograd.gradcheck(lambda m, v, *_: gate(m, v), (mean, log_variance, *parameters))


# --- vision-semantic alignment ---------------------------------------------------------------------------------------


@pytest.fixture
def alignment() -> VisionSemanticAlignment:
    return shuffled(VisionSemanticAlignment(LATENT, CLASSES))


def mixed_by_loops(z_v: np.ndarray, z_a: np.ndarray, d_x: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """R_ij = exp(z_v i z_a j / d_x) / sum_i' exp(z_v i' z_a j / d_x), applied to both."""
    weights = np.zeros((LATENT, LATENT))
    for j in range(LATENT):
        products = [np.exp(z_v[i] * z_a[j] / d_x) for i in range(LATENT)]
        weights[:, j] = products / np.sum(products)
    return weights @ z_v, weights @ z_a


def test_the_mixtures_are_those_of_loops_over_rows_and_dimensions(alignment):
    z_v, z_a = draw(ROWS, LATENT), draw(ROWS, LATENT, seed=1)
    got = alignment.mix(z_v, z_a)
    scores = alignment(z_v, z_a)
    heads = [[p.detach().numpy() for p in head.parameters()] for head in (alignment.visual, alignment.semantic)]
    for b in range(ROWS):
        for one, score, wanted, (w, bias) in zip(
            got, scores, mixed_by_loops(z_v[b].numpy(), z_a[b].numpy()), heads, strict=True
        ):
            np.testing.assert_allclose(one[b].detach(), wanted, rtol=1e-10)
            np.testing.assert_allclose(score[b].detach(), w @ wanted + bias, rtol=1e-10)
    assert all(score.shape == (ROWS, CLASSES) for score in scores)


def test_mixing_follows_a_common_permutation_of_the_dimensions_but_not_one_of_a_single_latent(alignment):
    z_v, z_a, order = draw(ROWS, LATENT), draw(ROWS, LATENT, seed=1), torch.tensor([2, 0, 3, 1])
    plain = alignment.mix(z_v, z_a)
    for got, wanted in zip(alignment.mix(z_v[:, order], z_a[:, order]), plain, strict=True):
        torch.testing.assert_close(got, wanted[:, order])
    alone = alignment.mix(z_v[:, order], z_a)
    # R follows z_v in its rows, so what R makes of z_a is only permuted; what it makes of the permuted z_v is not
    torch.testing.assert_close(alone[1], plain[1][:, order])
    assert not torch.allclose(alone[0], plain[0][:, order], atol=1e-3)
    other = alignment.mix(z_v, z_a[:, order])
    assert not torch.allclose(other[0], plain[0], atol=1e-3)


def test_rows_are_aligned_one_by_one(alignment):
    z_v, z_a, order = draw(ROWS, LATENT), draw(ROWS, LATENT, seed=1), torch.tensor([4, 2, 6, 0, 1, 5, 3])
    for got, wanted in zip(alignment(z_v[order], z_a[order]), alignment(z_v, z_a), strict=True):
        torch.testing.assert_close(got, wanted[order])


def test_the_alignments_gradient_is_that_of_differences(alignment):
    rows = [draw(3, LATENT, seed=s).requires_grad_() for s in (1, 2)]
    assert torch.autograd.gradcheck(lambda v, a, *_: alignment(v, a), (*rows, *alignment.parameters()))


# --- the loss --------------------------------------------------------------------------------------------------------

X = torch.rand(ROWS, CHANNELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
A = torch.rand(ROWS, ATTRIBUTES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
LABELS = torch.tensor([0, 2, 2, 5, 1, 4, 0])


def network(config: Config) -> Acmr:
    made = Acmr(config, DIMS)
    start_xavier(made, Rng(3), gain=1.5)
    return made.double()


def made_draw(width: int) -> Draw:
    orders = torch.tensor([3, 7, 0, 1, 6, 2, 5, 4]), torch.tensor([1, 0, 2, 5, 4, 3, 7, 6])
    return Draw((draw(ROWS, width, seed=4), draw(ROWS, width, seed=5)), orders)


def np_layers(module, x: np.ndarray) -> np.ndarray:
    w = [p.detach().numpy() for p in module.parameters()]
    return np.maximum(x @ w[0].T + w[1], 0) @ w[2].T + w[3]


def by_hand(made: Acmr, drawn: Draw, epoch: float, *, paper: bool, gated: bool) -> dict[str, float]:
    """docs/methods.md 6.1 to 6.3 in NumPy; sums over the batch, lambda beside means, all divided by the rows."""
    parts = []
    for encoder, gate, order, x, noise in (
        (made.vae.visual_encoder, made.visual_gate, drawn.orders[0], X, drawn.noise[0]),
        (made.vae.semantic_encoder, made.semantic_gate, drawn.orders[1], A, drawn.noise[1]),
    ):
        both = np_layers(encoder, x.numpy())
        w = np.stack([gate_by_loops(gate, row[order.numpy()]) for row in both]) if gated else 1.0
        mean, log = w * both[:, :LATENT], w * both[:, LATENT:]
        parts.append((mean, log, mean + np.exp((0.5 if paper else 1.0) * log) * noise.numpy()))
    (mv, lv, zv), (ma, la, za) = parts
    mixed = [mixed_by_loops(v, a, 2.0 if paper else 1.0) for v, a in zip(zv, za, strict=True)]  # 2: the root of LATENT
    nll = 0.0
    for head, side in ((made.alignment.visual, 0), (made.alignment.semantic, 1)):
        w, bias = (p.detach().numpy() for p in head.parameters())
        scores = np.stack([m[side] for m in mixed]) @ w.T + bias
        nll += np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(ROWS), LABELS.numpy()])

    def ramp(start, end):
        return min(max((epoch - start) / (end - start), 0), 1)

    alpha = 2.555 if paper else 2.555 * ramp(0, 93)
    kl = sum(0.5 * (m**2 + np.exp(l) - 1 - l).sum() for m, l in ((mv, lv), (ma, la)))
    apart = np.sqrt(((mv - ma) ** 2).sum(1) + ((np.exp(lv / 2) - np.exp(la / 2)) ** 2).sum(1)).sum()
    total = {
        "visual": np.abs(np_layers(made.vae.visual_decoder, zv) - X.numpy()).sum(),
        "attribute": np.abs(np_layers(made.vae.semantic_decoder, za) - A.numpy()).sum(),
        "kl": alpha * kl,
        "distance": 8.21 * ramp(7, 22) * apart,
        "classes": (305.0 if paper else 310.5) * ramp(0, 21) * nll,
    }
    return {name: value / ROWS for name, value in total.items()}


@pytest.mark.parametrize("epoch", [0, 10, 21, 60, 99])
@pytest.mark.parametrize("preset", ["code", "paper"])
@pytest.mark.parametrize("gate", ["iem", "none"])
def test_every_term_is_the_published_formula(epoch, preset, gate):
    config = Config(**{**PRESETS[preset], **SIZES, "gate": gate})
    made, drawn = network(config), made_draw(config.noise_width)
    got = weighted_losses(made, X, A, LABELS, drawn, epoch=epoch, config=config)
    wanted = by_hand(made, drawn, epoch, paper=preset == "paper", gated=gate == "iem")
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].item() == pytest.approx(value, rel=1e-10, abs=1e-15), name


@pytest.mark.parametrize(("preset", "amsgrad"), [("default", True), ("paper", False), ("code", True)])
def test_amsgrad_is_the_codes_alone(preset, amsgrad, tmp_path, monkeypatch):
    made = []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *rest, **options: made.append(adam(*rest, **options)) or made[-1])
    fit(tiny_training_data(), Config(**{**PRESETS[preset], **SIZES, "steps": 2}), Session(tmp_path, lambda _: None), 0)
    (optimiser,) = made
    assert [group["amsgrad"] for group in optimiser.param_groups] == [amsgrad] * 3


def test_every_part_has_its_own_learning_rate():
    config = Config(**SIZES)
    groups = Acmr(config, DIMS).groups(config)
    assert [group["lr"] for group in groups] == [1.5e-4, 3.3e-5, 7.4e-3]
    assert [len(group["params"]) for group in groups] == [16, 8, 4]
    assert sum(len(group["params"]) for group in groups) == len(list(Acmr(config, DIMS).parameters()))


def test_without_the_gates_latents_are_shipped_as_they_are_encoded():
    config = Config(**{**SIZES, "gate": "none"})
    assert [group["lr"] for group in Acmr(config, DIMS).groups(config)] == [1.5e-4, 7.4e-3]
    plain, gated = build(config, DIMS), build(Config(**SIZES), DIMS)
    assert not any("enhance" in key for key in plain.state_dict())
    assert sum("enhance" in key for key in gated.state_dict()) == 10  # 2 layers and the orders, of each modality
