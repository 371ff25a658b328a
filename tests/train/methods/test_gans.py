"""What the GANs compute beyond what every method promises: their own losses, against formulas written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from support.tiny_features import ATTRIBUTES, CHANNELS, tiny_training_data
from zsl_runtime.errors import UsageError
from zsl_train.losses.souls import cluster_members
from zsl_train.losses.wgan_gp import critic_gradients
from zsl_train.methods import METHODS, dcr_gan, f_clswgan, lisgan, tf_vaegan
from zsl_train.methods.f_clswgan import ClsWgan, real_batches, seen_columns
from zsl_train.methods.lisgan import BranchGan, SoulGan
from zsl_train.methods.pooled import SCALINGS, generator_output, pooled_features
from zsl_train.methods.session import Rng, Session
from zsl_train.nets import start_normal
from zsl_train.scoring.baselines import scale

DATA = tiny_training_data()
SEEN = torch.from_numpy(DATA.table.seen)
COLUMN = torch.tensor([0, 0, 1, 2, 0, 3, 4, 0])  # of the 8 classes, 5 are seen
FEATURES = pooled_features(DATA, "minmax")[1]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_pooled_features_are_the_scaled_means_whatever_the_block(scaling):
    mean = DATA.regions[DATA.rows].astype(np.float64).mean(axis=1)
    embedder, features = pooled_features(DATA, scaling, block=7)
    np.testing.assert_allclose(features.numpy(), scale(mean, mean, scaling), atol=1e-5)
    regions = torch.from_numpy(DATA.regions[DATA.rows].astype(np.float32))
    torch.testing.assert_close(embedder(regions), features)


def test_the_output_fits_the_features():
    assert [generator_output(one, "relu") for one in SCALINGS] == ["relu", "linear", "linear", "linear"]


def made(kind, config):
    generator = torch.Generator().manual_seed(1)
    batches = real_batches(FEATURES, DATA, 7, Rng(2))
    classifier = start_normal(torch.nn.Linear(CHANNELS, 5), generator, std=0.5)
    if kind is ClsWgan:
        return ClsWgan(batches, classifier, COLUMN, config)
    return SoulGan(batches, classifier, COLUMN, SEEN.nonzero().squeeze(1), config)


def test_a_seen_class_has_its_place_among_the_seen():
    assert torch.equal(seen_columns(DATA)[SEEN], COLUMN[SEEN])


def test_the_classification_loss_is_that_of_the_frozen_classifier():
    gan = made(ClsWgan, f_clswgan.Config(hidden=9, classification_weight=0.3))
    fake, labels = torch.rand(4, CHANNELS), torch.tensor([0, 3, 6, 5])
    scores = (fake @ gan.classifier.weight.T + gan.classifier.bias).numpy().astype(float)
    wanted = -np.mean([s[c] - np.log(np.exp(s).sum()) for s, c in zip(scores, [0, 2, 4, 3], strict=True)])
    assert gan.further_losses(fake, labels)["classification"].item() == pytest.approx(0.3 * wanted, rel=1e-5)
    before = gan.classifier.weight.clone()
    gan.outer_step()
    assert torch.equal(gan.classifier.weight, before)


def test_the_generator_step_takes_the_last_critic_batch_again(monkeypatch):
    gan, drawn, given = made(ClsWgan, f_clswgan.Config(hidden=9, critic_steps=3)), [], []
    draw, step = gan.batches.draw, gan._generator_step
    monkeypatch.setattr(gan.batches, "draw", lambda: drawn.append(draw()) or drawn[-1])
    monkeypatch.setattr(gan, "_generator_step", lambda a, y: given.append((a, y)) or step(a, y))
    gan.outer_step()
    assert len(drawn) == 3
    assert torch.equal(given[0][0], drawn[-1][1])
    assert torch.equal(given[0][1], drawn[-1][2])


def nearest(row, souls) -> float:
    return min(float(((row - soul) ** 2).sum()) for soul in souls)


@pytest.mark.parametrize("classes", [0, 2])
def test_both_regularisers_of_lisgan(classes, monkeypatch):
    config = lisgan.Config(hidden=9, sample_weight=0.5, class_weight=2.0, soul_fakes=4, soul_classes=classes)
    gan = made(SoulGan, config)
    asked = []

    def generate(condition):
        asked.append(condition)
        return torch.rand(len(condition), CHANNELS, generator=torch.Generator().manual_seed(5))

    monkeypatch.setattr(gan, "generate", generate)
    fake, labels = torch.rand(4, CHANNELS), torch.tensor([0, 3, 6, 5])
    losses = gan.further_losses(fake, labels)
    wanted = np.mean([nearest(row, gan.souls[c]) for row, c in zip(fake, [0, 2, 4, 3], strict=True)])
    assert losses["samples"].item() == pytest.approx(0.5 * wanted, rel=1e-5)
    (condition,) = asked
    fakes = torch.rand(len(condition), CHANNELS, generator=torch.Generator().manual_seed(5))
    count = classes or 5
    assert len(condition) == 4 * count
    distances = []
    for index in range(count):
        rows = condition[4 * index : 4 * index + 4]
        (one,) = (c for c in range(8) if torch.equal(torch.from_numpy(DATA.semantic)[c], rows[0]))
        assert SEEN[one]
        assert torch.equal(rows, rows[:1].expand(4, -1))
        distances.append(nearest(fakes[4 * index : 4 * index + 4].mean(dim=0), gan.souls[COLUMN[one]]))
    assert losses["classes"].item() == pytest.approx(2.0 * np.mean(distances), rel=1e-5)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_fake_souls_of_the_paper_are_those_of_clustered_fakes(classes, monkeypatch):
    config = lisgan.Config(hidden=9, class_weight=2.0, soul_fakes=6, soul_classes=classes, fake_souls="clusters")
    gan = made(SoulGan, config)
    asked = []
    monkeypatch.setattr(
        gan,
        "generate",
        lambda rows: asked.append(rows) or torch.rand(len(rows), CHANNELS, generator=torch.Generator().manual_seed(5)),
    )
    got = gan.further_losses(torch.rand(4, CHANNELS), torch.tensor([0, 3, 6, 5]))["classes"]
    fakes = torch.rand(len(asked[0]), CHANNELS, generator=torch.Generator().manual_seed(5))
    count = classes or 5
    fakes = fakes.view(count, 6, CHANNELS)
    own = [torch.from_numpy(DATA.semantic).eq(rows).all(dim=1).nonzero().item() for rows in asked[0][::6]]
    members = cluster_members(fakes, 3)
    wanted = [
        np.mean([nearest(one[of[:, k] == 1].mean(dim=0), gan.souls[COLUMN[c]]) for k in range(3) if of[:, k].any()])
        for one, of, c in zip(fakes, members, own, strict=True)
    ]
    assert got.item() == pytest.approx(2.0 * np.mean(wanted), rel=1e-5)


def branched(**changes) -> BranchGan:
    config = lisgan.Config(hidden=9, classification_weight=0.7, classifier="branch", **changes)
    gan = BranchGan(real_batches(FEATURES, DATA, 7, Rng(2)), COLUMN, SEEN.nonzero().squeeze(1), config)
    for network in (gan.critic, gan.branch):
        for parameter in network.parameters():
            parameter.data.normal_(0, 0.4, generator=torch.Generator().manual_seed(parameter.numel()))
    return gan


def of_class(gan: BranchGan, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """E log P(y | x) of the branch: the hidden layer with a condition of zeros, in plain autograd."""
    blank = torch.zeros(len(features), ATTRIBUTES)
    hidden = functional.leaky_relu(gan.critic.first(torch.cat([features, blank], dim=1)), 0.2)
    scores = gan.branch(hidden)
    picked = scores[torch.arange(len(labels)), COLUMN[labels]]
    return (picked - scores.exp().sum(dim=1).log()).mean()


def test_the_critic_of_two_branches_has_the_gradients_of_the_whole_formula():
    """Eq. 2 with the penalty added, differentiated twice by autograd."""
    gan = branched()
    real, condition, labels = gan.batches.draw()
    fake, mix = torch.rand(7, CHANNELS), torch.rand(7, 1)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(gan.critic(between, condition).sum(), between, create_graph=True)
    loss = gan.critic(fake, condition).mean() - gan.critic(real, condition).mean()
    loss = loss - 0.7 * (of_class(gan, fake, labels) + of_class(gan, real, labels))
    loss = loss + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()
    moved = [*gan.critic.first.parameters(), gan.critic.last.weight, *gan.branch.parameters()]
    wanted = torch.autograd.grad(loss, moved)
    for _ in range(2):  # the second time over what the first has left
        critic_gradients(gan.critic, real, fake, condition, mix, penalty=10.0)
        torch.stack(list(gan.further_critic_losses(real, fake, labels).values())).sum().backward()
        for parameter, one in zip(moved, wanted, strict=True):
            torch.testing.assert_close(parameter.grad, one, rtol=1e-4, atol=1e-6)
    in_adam = {id(one) for group in gan.adam_critic.param_groups for one in group["params"]}
    assert in_adam == {id(one) for one in moved}
    assert {(group["lr"], group["betas"]) for group in gan.adam_critic.param_groups} == {(1e-4, (0.5, 0.999))}


def test_the_generator_is_judged_by_the_branch_which_stands_still():
    gan = branched(class_weight=0.0, sample_weight=0.0)
    fake, labels = torch.rand(4, CHANNELS, requires_grad=True), torch.tensor([0, 3, 6, 5])
    got = gan.further_losses(fake, labels)
    wanted = -0.7 * of_class(gan, fake, labels)
    torch.testing.assert_close(got["classification"], wanted)
    (gradient,) = torch.autograd.grad(wanted, fake)
    got["classification"].backward()
    torch.testing.assert_close(fake.grad, gradient)
    assert all(one.grad is None for network in (gan.critic, gan.branch) for one in network.parameters())


def test_an_outer_step_trains_both_branches_and_without_weight_only_the_score():
    for weight, moves in ((0.7, True), (0.0, False)):
        gan = branched()
        gan.weight = weight
        before = [gan.branch.weight.clone(), gan.critic.last.weight.clone()]
        losses = gan.outer_step()
        assert ("critic_classification" in losses) == moves
        assert torch.equal(before[0], gan.branch.weight) != moves
        assert not torch.equal(before[1], gan.critic.last.weight)


def test_a_branch_needs_no_stage_before_and_is_resumed_bit_for_bit(tmp_path):
    config = lisgan.Config(hidden=8, gan_steps=6, classifier="branch", fake_souls="clusters", synthetic_per_class=5)
    assert [stage.name for stage in lisgan.stages(config, DATA.dims)] == ["gan"]
    seconds = [stage.seconds for stage in lisgan.stages(replace(config, classifier="frozen"), DATA.dims)]
    assert lisgan.stages(config, DATA.dims)[0].seconds > seconds[1]  # a branch is trained in the critic's steps
    told: list[dict] = []
    whole = lisgan.fit(DATA, config, Session(tmp_path / "whole", told.append), 0)
    assert {one["stage"] for one in told} == {"gan"}

    def stop() -> None:
        if len(steps) == 3:
            raise KeyboardInterrupt
        steps.append(None)

    steps: list[None] = []
    with pytest.raises(KeyboardInterrupt):
        lisgan.fit(DATA, config, Session(tmp_path / "cut", lambda _: None, check=stop, save_seconds=-1.0), 0)
    again = lisgan.fit(DATA, config, Session(tmp_path / "cut", lambda _: None), 0)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("name", "changes", "part"),
    [
        *((one, {"hidden": 0}, f"hidden = 0 of {one}") for one in ("f-clswgan", "lisgan", "tf-vaegan", "dcr-gan")),
        ("lisgan", {"souls": 0}, "souls = 0 of lisgan"),
        ("dcr-gan", {"searched_weight": -1.0}, "expected 0 or more"),
        ("tf-vaegan", {"head_epochs": 0}, "cannot fit a head"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_training(name, changes, part):
    with pytest.raises(UsageError, match=part):
        METHODS[name].Config(**changes)


SHORT = {
    **dict.fromkeys(("metric_steps", "rectify_steps", "semantic_steps", "searched_steps"), 3),
    "searched_width": 3,
    "regressor_hidden": 8,
}


@pytest.mark.parametrize("method", [f_clswgan, lisgan, tf_vaegan, dcr_gan])
def test_other_scalings_and_half_precision_train(method, tmp_path):
    quick = {"hidden": 8, "gan_steps": 3, "scaling": "standard", "precision": "bf16", "synthetic_per_class": 5}
    more = {"classifier_steps": 2} if method in {f_clswgan, lisgan} else {}
    config = method.Config(**(SHORT if method is dcr_gan else {}), **quick, **more)
    trained = method.fit(DATA, config, Session(tmp_path, lambda _: None), 0)
    fake = trained.synthesizer(torch.rand(50, ATTRIBUTES), torch.randn(50, trained.noise_width))
    assert bool(fake.isfinite().all())
    assert (fake < 0).any()  # standardised features have both signs
