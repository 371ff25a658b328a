"""CADA-VAE's loss against the formulas written out in float64, its gradients against the terms one by one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from support.tiny_features import ATTRIBUTES, CHANNELS, tiny_training_data
from zsl_train.methods.cada_vae import PRESETS, Config, fit, weighted_losses
from zsl_train.methods.dual_vae import DualVae, start_xavier
from zsl_train.methods.session import Rng, Session

ROWS, LATENT = 7, 3
HIDDEN = {
    "latent": LATENT,
    "visual_encoder_hidden": 9,
    "visual_decoder_hidden": 8,
    "semantic_encoder_hidden": 7,
    "semantic_decoder_hidden": 6,
}
X = torch.rand(ROWS, CHANNELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
A = torch.rand(ROWS, ATTRIBUTES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def network() -> DualVae:
    vae = DualVae(Config(**HIDDEN), CHANNELS, ATTRIBUTES)
    start_xavier(vae, Rng(3), gain=1.5)
    return vae.double()


def noise(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return tuple(torch.randn(ROWS, width, generator=generator, dtype=torch.float64) for _ in range(2))


def np_layers(module, x: np.ndarray) -> np.ndarray:
    """Two linear layers with a ReLU between."""
    w = [p.detach().numpy() for p in module.parameters()]
    return np.maximum(x @ w[0].T + w[1], 0) @ w[2].T + w[3]


def by_hand(vae: DualVae, drawn, epoch: float, *, code: bool, power: int) -> dict[str, float]:
    """docs/methods.md 7.3 in NumPy, sums over the batch divided by its rows."""
    x, a = X.numpy(), A.numpy()
    both_v, both_a = np_layers(vae.visual_encoder, x), np_layers(vae.semantic_encoder, a)
    (mv, lv), (ma, la) = (np.split(both, 2, axis=1) for both in (both_v, both_a))
    factor = 1.0 if code else 0.5
    zv, za = mv + np.exp(factor * lv) * drawn[0].numpy(), ma + np.exp(factor * la) * drawn[1].numpy()

    def off(got, wanted):
        return (np.abs(got - wanted) ** power).sum() / ROWS

    def ramp(start, end):
        return min(max((epoch - start) / (end - start), 0), 1)

    kl = sum(0.5 * (m**2 + np.exp(l) - 1 - l).sum() for m, l in ((mv, lv), (ma, la))) / ROWS
    apart = np.sqrt(((mv - ma) ** 2).sum(1) + ((np.exp(lv / 2) - np.exp(la / 2)) ** 2).sum(1)).sum() / ROWS
    crossed = off(np_layers(vae.visual_decoder, za), x) + off(np_layers(vae.semantic_decoder, zv), a)
    terms = {
        "visual": off(np_layers(vae.visual_decoder, zv), x),
        "attribute": off(np_layers(vae.semantic_decoder, za), a),
        "kl": 0.25 * ramp(0, 93) * kl,
        "distance": 8.13 * ramp(6, 22) * apart,
    }
    return terms | ({"cross": 2.37 * ramp(21, 75) * crossed} if epoch > 21 else {})


@pytest.mark.parametrize("epoch", [0, 14, 21, 48, 99])
@pytest.mark.parametrize(
    ("preset", "reconstruction"), [("code", "l1"), ("paper", "l1"), ("paper", "l2"), ("default", "l1")]
)
def test_every_term_is_the_published_formula(epoch, preset, reconstruction):
    config = Config(**{**PRESETS[preset], **HIDDEN, "reconstruction": reconstruction})
    vae, drawn = network(), noise(config.noise_width)
    got = weighted_losses(vae, X, A, drawn, epoch=epoch, config=config)
    power = 1 if reconstruction == "l1" else 2
    wanted = by_hand(vae, drawn, epoch, code=preset != "paper", power=power)
    assert got.keys() == wanted.keys()
    assert drawn[0].shape[1] == (LATENT if preset == "paper" else 1)
    for name, value in wanted.items():
        assert got[name].item() == pytest.approx(value, rel=1e-10, abs=1e-15), name


def test_the_gradient_is_that_of_differences():
    config = Config(**{**HIDDEN, "reconstruction": "l2"})  # smooth but for the ReLUs
    vae, drawn = network(), noise(1)

    def total() -> torch.Tensor:
        return torch.stack(list(weighted_losses(vae, X, A, drawn, epoch=50, config=config).values())).sum()

    total().backward()
    rng = np.random.default_rng(0)
    for name, parameter in vae.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for index in rng.integers(len(flat), size=2):
            old, step = flat[index].item(), 1e-6
            values = []
            for value in (old + step, old - step):
                flat[index] = value
                values.append(total().item())
            flat[index] = old
            assert gradient[index].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-6), (
                name
            )


def test_a_step_moves_the_networks_by_the_whole_loss(tmp_path):
    """The first step of Adam is a full step against the sign of the gradient, whatever its size."""
    data = tiny_training_data()
    config = Config(**HIDDEN, steps=1, batch=len(data.rows), learning_rate=1e-3, schedule_epochs=1.0)
    before = DualVae(config, CHANNELS, ATTRIBUTES)
    rng = Rng(5)
    start_xavier(before, rng)
    trained = fit(data, config, Session(tmp_path, lambda _: None), 5)
    chosen = rng.permutation(len(data.rows))
    drawn = rng.normal(len(chosen), 1), rng.normal(len(chosen), 1)
    regions = torch.from_numpy(data.regions[data.rows[chosen.numpy()]].astype(np.float32))
    x, a = trained.embedder.pooled(regions), torch.from_numpy(data.semantic[data.labels[chosen.numpy()]])
    moved = copy.deepcopy(before)
    torch.stack(list(weighted_losses(moved, x, a, drawn, epoch=0, config=config).values())).sum().backward()
    for name in ("visual_encoder", "semantic_encoder"):
        old, gradients = getattr(before, name), getattr(moved, name)
        new = trained.embedder.encoder if name == "visual_encoder" else trained.synthesizer.encoder
        for key, parameter in gradients.named_parameters():
            sure = parameter.grad.abs() > 1e-4  # elsewhere rounding or Adam's epsilon has a say
            assert sure.any()
            step = (new.get_parameter(key) - old.get_parameter(key))[sure]
            torch.testing.assert_close(step, -1e-3 * parameter.grad[sure].sign(), rtol=1e-2, atol=1e-6)
