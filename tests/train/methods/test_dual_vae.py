"""What the aligned auto-encoders share, against NumPy: networks, shipped modules, batches, lengths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.tiny_features import ATTRIBUTES, CHANNELS, REGIONS, tiny_training_data
from zsl_runtime.errors import UsageError
from zsl_train.methods import acmr, cada_vae
from zsl_train.methods.base import Dims
from zsl_train.methods.dual_vae import (
    AT_LEAST_ONE,
    SHORTEST,
    Decoder,
    DualVae,
    GaussianEncoder,
    LatentEmbedder,
    LatentSampler,
    LatentSynthesizer,
    Settings,
    only_stage,
    schedule_epoch,
    start_xavier,
    step_seconds,
)
from zsl_train.methods.lengths import cap_epochs, estimate, names, plan, size
from zsl_train.methods.session import Rng
from zsl_train.nets import PooledEmbedder
from zsl_train.scoring.baselines import scale

DATA = tiny_training_data()
POOLED = DATA.regions[DATA.rows].astype(np.float32).mean(axis=1)


def started(module, gain=3.0):
    """With weights far from the start and biases that are not zero."""
    start_xavier(module, Rng(1), gain)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.5, generator=generator)
    return module.requires_grad_(requires_grad=False)


def weights(module) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


def encoded(encoder: GaussianEncoder, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-variance in float64."""
    w = weights(encoder)
    hidden = np.maximum(x @ w["first.weight"].T + w["first.bias"], 0)
    both = hidden @ w["heads.weight"].T + w["heads.bias"]
    half = both.shape[1] // 2
    return both[:, :half], both[:, half:]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- networks --------------------------------------------------------------------------------------------------------


def test_the_encoder_is_one_hidden_layer_and_two_heads():
    encoder, x = started(GaussianEncoder(5, 7, 3)), draw(4, 5)
    for got, wanted in zip(encoder(torch.from_numpy(x)), encoded(encoder, x), strict=True):
        assert got.shape == (4, 3)
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_the_decoder_is_one_hidden_layer_and_a_linear_output():
    decoder, z = started(Decoder(3, 7, 5)), draw(4, 3)
    w = weights(decoder)
    hidden = np.maximum(z @ w["first.weight"].T + w["first.bias"], 0)
    wanted = hidden @ w["last.weight"].T + w["last.bias"]
    assert (wanted < 0).any()
    np.testing.assert_allclose(decoder(torch.from_numpy(z)).numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_the_layers_have_the_published_widths():
    vae = DualVae(Settings(), channels=2048, attributes=312)
    assert [tuple(p.shape) for name, p in vae.named_parameters() if name.endswith("weight")] == [
        (1560, 2048),
        (128, 1560),
        (1660, 64),
        (2048, 1660),
        (1450, 312),
        (128, 1450),
        (665, 64),
        (312, 665),
    ]


def test_the_start_is_xavier_uniform_with_half_gain_and_comes_from_the_generator():
    torch.manual_seed(99)  # must not matter
    vae = DualVae(Settings(latent=10), channels=30, attributes=20)
    start_xavier(vae, Rng(4))
    for name, parameter in vae.state_dict().items():
        if name.endswith("bias"):
            assert not parameter.any()
            continue
        fan_out, fan_in = parameter.shape
        if "heads" in name:
            fan_out //= 2  # two layers of 10 rows in one product
        bound = 0.5 * np.sqrt(6 / (fan_in + fan_out))
        assert 0.97 * bound < parameter.abs().max() <= bound
        assert parameter.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
        assert parameter.mean().abs() < bound / 20
    again = DualVae(Settings(latent=10), channels=30, attributes=20)
    start_xavier(again, Rng(4))
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), again.parameters(), strict=True))


# --- shipped modules -------------------------------------------------------------------------------------------------


class Halved(torch.nn.Module):
    """Stands for an enhancement."""

    def forward(self, mean, log_variance):
        return 0.5 * mean, 0.25 * log_variance


def shipped(spread: str, enhance=None) -> tuple[LatentEmbedder, LatentSampler, LatentSynthesizer]:
    pooled = PooledEmbedder(CHANNELS, "minmax")
    pooled.fit(torch.from_numpy(POOLED))
    encoders = [started(GaussianEncoder(width, 9, 3), gain=1.0) for width in (CHANNELS, ATTRIBUTES)]
    embedder = LatentEmbedder(pooled, encoders[0], enhance)
    return embedder, LatentSampler(embedder, spread), LatentSynthesizer(encoders[1], spread, enhance)


@pytest.mark.parametrize("spread", ["variance", "deviation"])
@pytest.mark.parametrize("enhance", [None, Halved()])
def test_f_is_the_mean_and_a_sample_is_the_mean_with_noise(spread, enhance):
    embedder, sampler, synthesizer = shipped(spread, enhance)
    regions = DATA.regions[DATA.rows[:5]].astype(np.float32)
    mean, log_variance = encoded(embedder.encoder, scale(regions.mean(axis=1), POOLED, "minmax"))
    mean_a, log_a = encoded(synthesizer.encoder, DATA.semantic)
    if enhance is not None:
        mean, log_variance, mean_a, log_a = 0.5 * mean, 0.25 * log_variance, 0.5 * mean_a, 0.25 * log_a
    np.testing.assert_allclose(embedder(torch.from_numpy(regions)).numpy(), mean, rtol=1e-4, atol=1e-5)
    factor = 1.0 if spread == "variance" else 0.5
    for width in (1, 3):  # one number shared by a row's dimensions, or one for each
        noise = draw(5, 4, width)
        wanted = mean[:, None] + np.exp(factor * log_variance)[:, None] * noise
        got = sampler(torch.from_numpy(regions), torch.from_numpy(noise))
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-4, atol=1e-4)
        noise = draw(len(DATA.semantic), width)
        got = synthesizer(torch.from_numpy(DATA.semantic), torch.from_numpy(noise))
        np.testing.assert_allclose(got.numpy(), mean_a + np.exp(factor * log_a) * noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [cada_vae, acmr])
@pytest.mark.parametrize(("noise", "width"), [("shared", 1), ("each", 6)])
def test_noise_is_as_wide_as_it_is_used(method, noise, width):
    dims = Dims(regions=REGIONS, channels=CHANNELS, attributes=ATTRIBUTES, word_width=2, classes=8)
    config = method.Config(latent=6, noise=noise, latents_per_seen_class=7, synthetic_per_class=11)
    trained = method.build(config, dims)
    assert (trained.noise_width, trained.feature_width, trained.lifted_width) == (width, 6, 6)
    assert (trained.replay_per_class, trained.synthetic_per_class, trained.lift) == (7, 11, None)
    assert [(view.start, view.stop) for view in trained.views] == [(0, 6)]
    assert trained.replay.embedder is trained.embedder


# --- lengths ---------------------------------------------------------------------------------------------------------


def test_the_published_schedule_is_counted_in_whole_epochs():
    config = Settings()
    steps = only_stage(config, 1.0)[0].steps(config, 5000)
    assert steps == 10_000  # 100 epochs of 100 batches
    assert [schedule_epoch(config, step, steps) for step in (0, 99, 100, 2199, 2200, 9999)] == [0, 0, 1, 21, 22, 99]


@given(st.integers(1, 1000), st.integers(1, 300))
@settings(max_examples=40)
def test_a_schedule_of_any_length_goes_through_all_its_epochs_in_order(steps, epochs):
    config = Settings(schedule_epochs=float(epochs))
    found = [schedule_epoch(config, step, steps) for step in range(steps)]
    assert found == sorted(found)
    assert found[0] == 0
    assert epochs - 1 - epochs / steps <= found[-1] < epochs


@pytest.mark.parametrize("method", [cada_vae, acmr])
def test_a_small_set_gets_more_steps_and_none_more_than_there_is_time_for(method):
    dims = Dims(regions=1, channels=2048, attributes=312, word_width=2, classes=200)
    config = method.Config()
    stages = method.stages(config, dims)
    assert size(stages, config, 400, 1e9).steps == SHORTEST
    assert size(stages, config, 7057, 1e9).steps == plan(stages, config, 7057)[""] == 14114
    short = size(stages, config, 7057, 60.0)
    assert estimate(stages, short, 7057) <= 60.0 < estimate(stages, replace(short, steps=short.steps + 1), 1)
    assert size(stages, config, 400, 0.0).steps == 1
    assert cap_epochs(stages, config, 2.0, 7057).steps == round(2 * 7057 / 50)
    assert cap_epochs(stages, replace(config, steps=9), 2.0, 7057).steps == 9
    assert names(stages) == {"epochs", "steps"}


def test_cross_reconstruction_takes_time():
    dims = Dims(regions=1, channels=2048, attributes=312, word_width=2, classes=200)
    assert step_seconds(Settings(), dims, 2) > 1.1 * step_seconds(Settings(), dims, 1)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AT_LEAST_ONE)
@pytest.mark.parametrize("method", [cada_vae, acmr])
def test_nothing_can_be_smaller_than_one(method, name):
    with pytest.raises(UsageError, match=f"E-RECIPE: {name} = 0 of {method.NAME}; expected at least 1"):
        method.Config(**{name: 0})


def test_impossible_head_settings_are_refused_at_once():
    with pytest.raises(UsageError, match="E-FIT-SETTINGS"):
        Settings(head_beta1=1.0)
    with pytest.raises(UsageError, match="E-RECIPE: gate_hidden = 0 of acmr; expected at least 1"):
        acmr.Config(gate_hidden=0)


def test_the_head_is_fitted_as_published():
    assert cada_vae.Config().fit_settings().to_dict() == {
        "epochs": 23,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "beta1": 0.5,
        "beta2": 0.999,
        "init_std": 0.02,
    }
    found = acmr.Config().fit_settings()
    assert (found.epochs, found.batch_size, found.learning_rate, found.beta1) == (50, 32, 5e-4, 0.3)
