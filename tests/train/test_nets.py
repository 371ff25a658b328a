"""The shared networks against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zsl_train.nets import (
    AttributeDecoder,
    Critic,
    Encoder,
    Feedback,
    Generator,
    MinMaxScaler,
    PooledEmbedder,
    start_normal,
)
from zsl_train.scoring.baselines import SCALINGS, scale


def weights(module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def started(module):
    return start_normal(module, torch.Generator().manual_seed(1), std=0.5)


@given(arrays(np.float32, (6, 4), elements=st.floats(-100, 100, width=32)))
@settings(max_examples=50)
def test_the_scaler_takes_training_features_to_the_unit_range(features):
    features[:, 2] = features[0, 2]  # constant while training
    scaler = MinMaxScaler(4).fit(torch.from_numpy(features))
    got = scaler(torch.from_numpy(features)).numpy()
    low, high = features.min(axis=0), features.max(axis=0)
    wanted = (features - low) / np.where(high > low, high - low, 1)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert got.min() >= 0
    assert got.max() <= 1


@pytest.mark.parametrize("scaling", SCALINGS)
def test_pooled_features_are_scaled_as_the_baselines_scale_them(scaling):
    regions = draw(7, 3, 5).abs()
    regions[:, :, 2] = 0.25  # constant while training, but for l2
    other = draw(4, 3, 5, seed=1)
    pooled, held = regions.mean(dim=1).numpy(), other.mean(dim=1).numpy()
    embedder = PooledEmbedder(5, scaling)
    embedder.fit(embedder.pool(regions))
    for rows, mean in ((regions, pooled), (other, held)):
        np.testing.assert_allclose(embedder(rows).numpy(), scale(mean, pooled, scaling), atol=2e-6)


def test_the_scaler_does_not_clip_and_its_numbers_are_saved():
    scaler = MinMaxScaler(2).fit(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    outside = torch.tensor([[-1.0, 7.0], [4.0, 4.0]])
    np.testing.assert_allclose(scaler(outside).numpy(), [[-0.5, 2.0], [2.0, -1.0]])
    again = MinMaxScaler(2)
    again.load_state_dict(scaler.state_dict())
    np.testing.assert_array_equal(again(outside).numpy(), scaler(outside).numpy())
    assert list(scaler.parameters()) == []


def test_the_generator_adds_the_feedback_to_its_hidden_layer():
    network, z, a, back = started(Generator(3, 2, 7, 5)), draw(4, 3), draw(4, 2, seed=2), draw(4, 7, seed=3)
    w = weights(network)
    hidden = leaky(np.concatenate([z, a], axis=1) @ w["first.weight"].T + w["first.bias"])
    for feedback, extra in ((None, 0.0), (back, back.numpy())):
        wanted = 1 / (1 + np.exp(-((hidden + extra) @ w["last.weight"].T + w["last.bias"])))
        np.testing.assert_allclose(network(z, a, feedback).detach().numpy(), wanted, rtol=1e-5)


def test_the_encoder_gives_mean_and_log_variance():
    network, x, a = started(Encoder(5, 2, 7, 3)), draw(4, 5), draw(4, 2, seed=2)
    w = weights(network)
    hidden = leaky(np.concatenate([x, a], axis=1) @ w["first.weight"].T + w["first.bias"])
    hidden = leaky(hidden @ w["second.weight"].T + w["second.bias"])
    assert hidden.shape == (4, 6)  # 2 Z
    for got, part in zip(network(x, a), ("mean", "log_variance"), strict=True):
        wanted = hidden @ w[f"{part}.weight"].T + w[f"{part}.bias"]
        np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_the_decoder_gives_unit_rows_and_its_hidden_layer():
    network, x = started(AttributeDecoder(5, 7, 3)), draw(4, 5)
    w = weights(network)
    inner = leaky(x.numpy() @ w["first.weight"].T + w["first.bias"])
    outer = inner @ w["last.weight"].T + w["last.bias"]
    semantic, hidden = network(x)
    np.testing.assert_allclose(hidden.detach().numpy(), inner, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        semantic.detach().numpy(), outer / np.linalg.norm(outer, axis=1, keepdims=True), rtol=1e-4
    )


def test_the_decoder_of_nothing_stays_finite():
    network = AttributeDecoder(5, 7, 3)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    assert network(draw(4, 5))[0].isfinite().all()


def test_the_feedback_is_two_leaky_layers():
    network, x = started(Feedback(6)), draw(4, 6)
    w = weights(network)
    inner = leaky(x.numpy() @ w["first.weight"].T + w["first.bias"])
    wanted = leaky(inner @ w["last.weight"].T + w["last.bias"])
    np.testing.assert_allclose(network(x).detach().numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_the_start_is_normal_with_zero_bias_and_comes_from_the_generator():
    torch.manual_seed(99)  # must not matter
    network = start_normal(Critic(300, 20, 200), torch.Generator().manual_seed(5))
    values = network.first.weight.detach().numpy()
    assert values.mean() == pytest.approx(0, abs=3 * 0.02 / np.sqrt(values.size))
    assert values.std() == pytest.approx(0.02, rel=0.02)
    assert not network.first.bias.any()
    assert not network.last.bias.any()
    again = start_normal(Critic(300, 20, 200), torch.Generator().manual_seed(5))
    assert torch.equal(network.first.weight, again.first.weight)
    assert torch.equal(network.last.weight, again.last.weight)
