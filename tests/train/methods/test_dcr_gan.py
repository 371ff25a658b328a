"""What DCR-GAN computes, against the paper's formulas written out; its dead regressor; its variants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from support.tiny_features import ATTRIBUTES, CHANNELS, tiny_training_data
from zsl_runtime.errors import UsageError
from zsl_runtime.head.fitting import fit_head
from zsl_runtime.head.head import FitSettings, View
from zsl_train.methods import dcr_gan
from zsl_train.methods.dcr_gan import method as gan_module
from zsl_train.methods.dcr_gan.config import for_unseen
from zsl_train.methods.dcr_gan.method import DcrGan, explained, regression_loss
from zsl_train.methods.dcr_gan.metric import searched_targets, train_metric, train_rectifier
from zsl_train.methods.dcr_gan.networks import regressors
from zsl_train.methods.f_clswgan import real_batches
from zsl_train.methods.pooled import Batches, pooled_features
from zsl_train.methods.session import Rng, Session
from zsl_train.nets import start_normal
from zsl_train.training.timing import Stopwatch

DATA = tiny_training_data()
SEEN = torch.from_numpy(DATA.table.seen)
SEMANTIC = torch.from_numpy(DATA.semantic)
FEATURES = pooled_features(DATA, "minmax")[1]
WANTED = SEMANTIC[torch.from_numpy(DATA.labels)]
SMALL = dcr_gan.Config(
    hidden=9, searched_width=3, regressor_hidden=8, guide_fakes=2, seen_semantic=0.1, unseen_semantic=0.2,
    seen_searched=0.3, unseen_searched=0.4, metric_steps=3, rectify_steps=3, semantic_steps=3, searched_steps=3,
    classifier_steps=3, gan_steps=3, metric_batch=12,
)  # fmt: skip
PAPER = replace(SMALL, **{k: v for k, v in dcr_gan.PRESETS["paper"].items() if not k.startswith(("unseen", "czsl"))})


class Kept(Session):
    """A session that keeps the losses of every step and the state of every stage."""

    def __init__(self, folder=None) -> None:
        self.lines, self.losses, self.states, self.folder = [], {}, {}, folder
        super().__init__(folder, self.lines.append)

    def loop(self, stage, steps, state, body, trained=None) -> None:
        self.states[stage] = state
        self.losses[stage] = [{k: float(v.detach()) for k, v in body(step).items()} for step in range(steps)]

    def notes(self) -> str:
        return "\n".join(line.get("note", "") for line in self.lines)


# --- the searched space ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False])
def test_what_the_rectifying_network_learns_is_each_class_s_mean(scaled):
    batches = real_batches(FEATURES, DATA, 7, Rng(0))
    weight = torch.randn(3, CHANNELS + ATTRIBUTES, generator=torch.Generator().manual_seed(3))
    targets, classes = searched_targets(lambda rows: rows @ weight.T, batches, scaled=scaled)
    rows = torch.cat([FEATURES, WANTED], dim=1).double().numpy()
    found = rows @ weight.double().numpy().T
    if scaled:
        found = (found - found.min(axis=0)) / np.ptp(found, axis=0)
    assert classes.tolist() == np.unique(DATA.labels).tolist()
    for row, one in zip(targets, classes, strict=True):
        np.testing.assert_allclose(row.numpy(), found[DATA.labels == int(one)].mean(axis=0), atol=1e-5)


def start_of(config, stage):
    """The network of stage metric or rectify as it is before its first step, and after one step with these settings."""
    found = []
    for steps in (0, 1):
        batches = real_batches(FEATURES, DATA, 12, Rng(4))
        metric = train_metric(batches, config, Kept(), steps if stage == "metric" else 0)
        if stage == "rectify":
            batches = real_batches(FEATURES, DATA, 1, Rng(5))
            metric = (metric, train_rectifier(metric, batches, config, Kept(), steps=steps))
        found.append(metric)
    return found


def stepped(network, loss, rate):
    """The network's parameters after one step of Adam, whose first step is rate * sign(gradient)."""
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return [p - rate * g / (g.abs() + 1e-8) for p, g in zip(network.parameters(), gradients, strict=True)]


def compare(after, before, loss, config, skip=0):
    """One step down this loss; where nothing is left to the optimiser, the gradients themselves."""
    if config.decay == "norm":
        gradients = torch.autograd.grad(loss, list(before.parameters()), retain_graph=True)
        for p, wanted in zip(after.parameters(), gradients, strict=True):
            torch.testing.assert_close(p.grad, wanted, atol=1e-6, rtol=1e-3)
    pairs = list(zip(after.parameters(), stepped(before, loss, config.learning_rate_metric), strict=True))
    for found, wanted in pairs[: len(pairs) - skip]:
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)  # where a gradient is 0 but for rounding


@pytest.mark.parametrize("decay", ["squares", "norm"])
def test_the_metric_network_descends_eq_3(decay):
    """By the code the sum of squared weights, by the paper the norm of all parameters, is added to Eq. 2's loss."""
    config = replace(SMALL, decay=decay, metric_decay=0.7, learning_rate_metric=1e-2)
    before, after = start_of(config, "metric")
    batches = real_batches(FEATURES, DATA, 12, Rng(4))
    again = train_metric(batches, config, Kept(), 0)  # draws what the start draws: the next batch is the first step's
    torch.testing.assert_close(again.first.weight, before.first.weight)
    features, semantic, labels = batches.draw()
    embedded = before(torch.cat([features, semantic], dim=1))
    distance = torch.cdist(embedded, embedded, compute_mode="donot_use_mm_for_euclid_dist")
    over = [
        distance[a, p] - distance[a, n] + config.margin
        for a in range(12) for p in range(12) for n in range(12)
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]  # fmt: skip
    over = torch.stack(over)
    loss = over[over > 0].mean()
    parameters = list(before.parameters())
    if decay == "norm":
        loss = loss + 0.7 * torch.cat([p.flatten() for p in parameters]).norm()
    else:
        loss = loss + 0.7 * (before.first.weight.square().sum() + before.last.weight.square().sum())
    compare(after, before, loss, config, skip=1)  # the last bias is in every distance alike


@pytest.mark.parametrize("one_by_one", [True, False])
def test_the_rectifying_network_descends_eq_4(one_by_one):
    """By the paper the distance of one class and the norm of all parameters; by the code all classes, and squares."""
    kind = {"decay": "norm", "rectify_classes": 1} if one_by_one else {}
    config = replace(SMALL, rectify_decay=0.3, rectify_targets="plain", rectify_output="linear", **kind)
    config = replace(config, learning_rate_metric=1e-2)
    (metric, before), (_, after) = start_of(config, "rectify")
    batches = real_batches(FEATURES, DATA, 1, Rng(5))
    train_rectifier(metric, batches, config, Kept(), steps=0)
    outputs = metric(torch.cat([FEATURES, WANTED], dim=1)).detach()
    seen = np.unique(DATA.labels)
    targets = torch.stack([outputs[torch.from_numpy(DATA.labels == c)].mean(dim=0) for c in seen])
    missed = before(SEMANTIC[seen]) - targets
    if one_by_one:
        loss = missed[batches.rng.permutation(5)[0]].norm()
        loss = loss + 0.3 * torch.cat([p.flatten() for p in before.parameters()]).norm()
    else:
        loss = missed.norm() / 5 + 0.3 * (before.first.weight.square().sum() + before.last.weight.square().sum())
    compare(after, before, loss, config)


# --- the regressors and the generator --------------------------------------------------------------------------------


def test_the_three_kinds_of_a_regressor_s_loss():
    found, wanted = torch.tensor([[1.0, 2.0, 5.0], [0.0, 0.0, 2.0]]), torch.tensor([[0.0, 2.0, 3.0], [1.0, 0.0, 0.0]])
    assert regression_loss(found, wanted, "mse").item() == pytest.approx((1 + 4 + 1 + 4) / 6)
    assert regression_loss(found, wanted, "l1").item() == pytest.approx((1 + 2 + 1 + 2) / 6)
    assert regression_loss(found, wanted, "l1-norm").item() == pytest.approx(((1 + 2) + (1 + 2)) / 2)  # Eq. 7


def made(config, *, alive=True, **more):
    networks = regressors(config, DATA.dims)
    for number, network in enumerate(networks.values()):
        start_normal(network, torch.Generator().manual_seed(number), std=0.5)
    if not alive:
        del networks["semantic"]
    table = torch.cat([SEMANTIC, torch.rand(8, 3, generator=torch.Generator().manual_seed(9))], dim=1)
    batches = Batches(FEATURES, torch.from_numpy(DATA.labels), table, 7, Rng(0))
    return DcrGan(batches, networks, SEEN, config, ATTRIBUTES, **more), networks, table


@pytest.mark.parametrize("alive", [True, False])
def test_the_guidance_is_the_regressors_error_on_fakes_of_all_classes(alive, monkeypatch):
    gan, networks, table = made(SMALL, alive=alive)
    fakes = {len(SEEN[SEEN]) * 2: torch.rand(10, CHANNELS), len(SEEN[~SEEN]) * 2: torch.rand(6, CHANNELS)}
    monkeypatch.setattr(gan, "generate", lambda condition: fakes[len(condition)])
    losses = gan.further_losses(torch.empty(0), torch.empty(0))
    wanted = {}
    for kind, mask, pair in (("seen", SEEN, (0.1, 0.3)), ("unseen", ~SEEN, (0.2, 0.4))):
        rows = table[mask].repeat_interleave(2, dim=0)
        made_up = fakes[len(rows)]
        if alive:
            found = networks["semantic"](made_up)
            wanted[f"{kind}_semantic"] = pair[0] * functional.mse_loss(found, rows[:, :ATTRIBUTES])
        found = networks["searched"](made_up)
        wanted[f"{kind}_searched"] = pair[1] * functional.mse_loss(found, rows[:, ATTRIBUTES:])
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(losses[name], value)


def test_regressors_of_the_paper_learn_with_the_generator_on_its_fakes():
    """Algorithm 2: a step of F1 and of F2 on the fakes, then the generator's step against both (Eq. 7 to 9)."""
    config = replace(PAPER, unseen_semantic=0.0, unseen_searched=0.0, learning_rate_regressor=1e-2)
    gan, networks, table = made(config)
    before = {name: [p.clone() for p in network.parameters()] for name, network in networks.items()}
    labels = torch.tensor([0, 2, 5, 6])
    fake = torch.rand(4, CHANNELS).requires_grad_()
    losses = gan.further_losses(fake, labels)
    assert set(losses) == {"fit_semantic", "fit_searched", "seen_semantic", "seen_searched"}
    for name, columns, weight in (("semantic", slice(0, ATTRIBUTES), 0.1), ("searched", slice(ATTRIBUTES, None), 0.3)):
        wanted = table[labels][:, columns]
        first = regressors(config, DATA.dims)[name]
        for p, value in zip(first.parameters(), before[name], strict=True):
            p.data.copy_(value)
        loss = (first(fake.detach()) - wanted).abs().sum() / 4
        torch.testing.assert_close(losses[f"fit_{name}"], loss)
        for p, value in zip(networks[name].parameters(), stepped(first, loss, 1e-2), strict=True):
            torch.testing.assert_close(p.data, value.detach(), atol=1e-4, rtol=0)
        missed = (networks[name](fake) - wanted).abs().sum() / 4
        torch.testing.assert_close(losses[f"seen_{name}"], weight * missed)
        (mine,) = torch.autograd.grad(losses[f"seen_{name}"], fake, retain_graph=True)
        (its,) = torch.autograd.grad(weight * missed, fake)
        torch.testing.assert_close(mine, its)
    assert not losses["fit_semantic"].requires_grad  # it trains F1 and nothing else
    names = {"semantic", "searched", "adam_semantic", "adam_searched"}
    assert names < set(gan.state())  # so that a training that is resumed goes on with them


class CutError(Exception):
    """What the test interrupts a training with."""


@pytest.mark.parametrize("changes", [{}, {"classification_weight": 0.01, "critic_condition": False}])
def test_a_training_with_joint_regressors_goes_on_where_it_was_cut(changes, tmp_path):
    """F1, F2 and their optimisers are part of what is kept of the GAN's stage; so is the classifier, of its own."""
    config = replace(PAPER, gan_steps=6, **changes)
    whole = dcr_gan.fit(DATA, config, Session(tmp_path / "whole", lambda _: None), 0)
    left = [sum((3, 3, 3 if changes else 0, 4))]  # steps of metric, rectify, classifier, and of six of the GAN

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise CutError

    with pytest.raises(CutError):
        dcr_gan.fit(DATA, config, Session(tmp_path / "cut", lambda _: None, check=check, save_seconds=0.0), 0)
    again = dcr_gan.fit(DATA, config, Session(tmp_path / "cut", lambda _: None), 0)
    state, wanted = again.state_dict(), whole.state_dict()
    assert any(key.startswith("lift.semantic") for key in wanted)
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)


# --- a dead F1 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moving", [0, 1])
def test_what_a_regressor_explains(moving):
    """1 for the truth, 0 for its mean; below that for constants, even if some of the outputs move."""
    assert explained(lambda rows: WANTED[: len(rows)], FEATURES, WANTED) == pytest.approx(1)
    mean = WANTED.mean(dim=0)
    assert explained(lambda rows: mean.expand(len(rows), -1), FEATURES, WANTED) == pytest.approx(0, abs=1e-6)
    share = 1 - WANTED[:, moving:].double().square().sum() / (WANTED - mean).double().square().sum()
    some = torch.cat([WANTED[:, :moving], torch.zeros(len(WANTED), ATTRIBUTES - moving)], dim=1)
    assert explained(lambda rows: some[: len(rows)], FEATURES, WANTED) == pytest.approx(share.item(), rel=1e-5)
    assert share < 0


def fit_with(monkeypatch, folder, edit, config):
    real = gan_module.train_regressor

    def edited(stage, network, *rest, **options) -> None:
        real(stage, network, *rest, **options)
        if stage == "semantic":
            edit(network)

    monkeypatch.setattr(gan_module, "train_regressor", edited)
    told = []
    trained = dcr_gan.fit(DATA, config, Session(folder, told.append), 0)
    return trained, "\n".join(line.get("note", "") for line in told)


def almost_dead(network) -> None:
    """All outputs but the first are 0 on every picture."""
    network.last.bias.data[1:] = -1e6


@pytest.mark.parametrize("kind", ["drop", "prior"])
def test_a_dead_regressor_is_said_and_its_columns_are_not_shipped(kind, tmp_path, monkeypatch):
    config = replace(SMALL, dead_view=kind)
    trained, told = fit_with(monkeypatch, tmp_path / "dead", almost_dead, config)
    assert "F1 is dead" in told
    more = 1 if kind == "prior" else 0
    assert [(v.name, v.start, v.stop, v.weight) for v in trained.views] == [
        ("visual", 0, CHANNELS, 1.0),
        *([("prior", CHANNELS, CHANNELS + 1, 0.8)] if more else []),
        ("searched", CHANNELS + more, CHANNELS + more + 3, 0.05),
    ]
    assert trained.lifted_width == CHANNELS + more + 3
    assert not any(key.startswith("lift.semantic") for key in trained.state_dict())
    lifted = trained.lift(FEATURES)
    assert lifted.shape == (len(FEATURES), trained.lifted_width)
    assert torch.equal(lifted[:, :CHANNELS], FEATURES)
    assert (lifted[:, CHANNELS : CHANNELS + more] == torch.full((1,), 1e-3)).all()
    again = dcr_gan.build(config, DATA.dims)  # as a run folder is read
    again.load_state_dict(trained.state_dict())
    assert torch.equal(again.lift(FEATURES), lifted)


def test_a_prior_is_what_a_classifier_makes_of_constants(tmp_path, monkeypatch):
    """Its log-probabilities are how often each class occurs among the rows, whatever the picture: those of its bias."""
    trained, _ = fit_with(monkeypatch, tmp_path, almost_dead, replace(SMALL, dead_view="prior"))
    view = trained.views[1]
    rows = trained.lift(torch.rand(1000, CHANNELS)).detach().numpy()
    labels = np.repeat([0, 1, 2], [100, 200, 700])
    head = fit_head(rows, labels, 3, [View("prior", view.start, view.stop, 0.8, FitSettings(60, 100, 1e-2))], 0)
    scores = rows[:, view.start : view.stop] @ head.weights[0].T + head.biases[0]
    assert np.ptp(scores, axis=0).max() == 0
    found = np.exp(scores[0]) / np.exp(scores[0]).sum()
    np.testing.assert_allclose(found, [0.1, 0.2, 0.7], atol=0.02)
    np.testing.assert_allclose(scores[0], head.biases[0], atol=5e-3)


def test_a_regressor_that_says_something_keeps_its_view(tmp_path, monkeypatch):
    def solve(network) -> None:  # its features are its hidden layer: their best linear fit
        hidden = functional.leaky_relu(network.first(FEATURES), network.slope)
        rows = torch.cat([hidden, torch.ones(len(FEATURES), 1)], dim=1)
        solved = torch.linalg.lstsq(rows.detach().double(), WANTED.double()).solution.float()
        network.last.weight.data.copy_(solved[:-1].T)
        network.last.bias.data.copy_(solved[-1])

    trained, told = fit_with(monkeypatch, tmp_path, solve, SMALL)
    assert "F1 explains 0." in told
    assert "dead" not in told
    assert [view.name for view in trained.views] == ["visual", "semantic", "searched"]


def test_a_training_that_is_only_timed_has_no_dead_regressor(tmp_path):
    """A few steps teach F1 nothing, and its losses are most of what a step of the GAN takes."""
    trained = dcr_gan.fit(DATA, SMALL, Stopwatch(tmp_path), 0)
    assert [view.name for view in trained.views] == ["visual", "semantic", "searched"]


def test_a_lift_of_an_earlier_version_keeps_all_its_columns():
    """It had F1's columns whether their view shipped or not: views begin where they began."""
    build = dcr_gan.build(SMALL, DATA.dims)
    again = dcr_gan.build(SMALL, DATA.dims)
    again.load_state_dict(build.state_dict())
    assert again.lift(FEATURES).shape[1] == CHANNELS + ATTRIBUTES + 3


# --- views, T1_czsl, variants ----------------------------------------------------------------------------------------


def test_the_three_views_have_the_published_fits():
    views = dcr_gan.build(replace(SMALL, semantic_weight=0.7), DATA.dims).views
    found = [(v.name, v.start, v.stop, v.weight, v.fit.epochs, v.fit.batch_size, v.fit.learning_rate) for v in views]
    f, a = CHANNELS, CHANNELS + ATTRIBUTES
    assert found == [
        ("visual", 0, f, 1.0, 25, 150, 1e-3),
        ("semantic", f, a, 0.7, 20, 100, 1e-3),
        ("searched", a, a + 3, 0.05, 20, 100, 0.1),
    ]


def test_the_classifier_of_unseen_classes_has_settings_of_its_own():
    assert dcr_gan.build(SMALL, DATA.dims).czsl is None
    own = {
        "czsl_synthetic_per_class": 33, "czsl_head_batch": 44, "czsl_head_learning_rate": 5e-4,
        "czsl_searched_learning_rate": 0.3, "czsl_semantic_weight": 0.6, "czsl_searched_weight": 0.02,
    }  # fmt: skip
    trained = dcr_gan.build(replace(SMALL, **own), DATA.dims)
    assert trained.synthetic_per_class == 150
    assert trained.czsl.synthetic_per_class == 33
    found = [(v.name, v.weight, v.fit.batch_size, v.fit.learning_rate) for v in trained.czsl.views]
    assert found == [("visual", 1.0, 44, 5e-4), ("semantic", 0.6, 100, 1e-3), ("searched", 0.02, 100, 0.3)]
    assert [(v.start, v.stop) for v in trained.czsl.views] == [(v.start, v.stop) for v in trained.views]
    with pytest.raises(UsageError, match="cannot fit a head"):
        replace(SMALL, czsl_head_batch=-1)


def test_the_code_s_classifier_of_unseen_classes_on_cub():
    """METHODS: 1100 synthetic features a class, batches of 1400, rate of the searched view 1e-3, weights 0.8, 0.05."""
    code = for_unseen(dcr_gan.Config(**dcr_gan.PRESETS["code"]))
    found = code.synthetic_per_class, code.head_batch, code.head_learning_rate, code.head_searched_learning_rate
    assert found == (1100, 1400, 1e-3, 1e-3)
    assert (code.semantic_weight, code.searched_weight) == (0.8, 0.05)


VARIANT_A = {"use_searched": False, "critic_condition": False, "classification_weight": 0.01, "semantic_weight": 0.0}
VARIANT_B = {**VARIANT_A, "use_searched": True, "searched_weight": 0.0}


@pytest.mark.parametrize(("changes", "searched"), [(VARIANT_A, 0), (VARIANT_B, 3)])
def test_the_paper_s_variants(changes, searched, tmp_path, monkeypatch):
    """Eq. 12, 13: D looks at the feature alone, a classifier's loss is added, and only the visual view is left."""
    monkeypatch.setattr(gan_module, "_alive", lambda *_: True)  # three steps teach F1 nothing
    session = Kept(tmp_path)
    config = replace(SMALL, **changes)
    trained = dcr_gan.fit(DATA, config, session, 0)
    state = session.states["gan"]
    assert state["critic"].first.in_features == CHANNELS
    assert state["generator"].first.in_features == 2 * ATTRIBUTES + searched
    assert ("metric" in session.losses) == (searched > 0)
    assert {"classification", "seen_semantic", "critic"} <= set(session.losses["gan"][0])
    assert ("seen_searched" in session.losses["gan"][0]) == (searched > 0)
    assert [(v.name, v.start, v.stop) for v in trained.views] == [("visual", 0, CHANNELS)]
    assert (trained.lift, trained.lifted_width) == (None, CHANNELS)
    again = dcr_gan.build(config, DATA.dims)
    again.load_state_dict(trained.state_dict())
    noise = torch.randn(5, trained.noise_width)
    assert torch.equal(*(one.synthesizer(SEMANTIC[:5], noise) for one in (again, trained)))


def test_the_classifier_s_loss_is_that_of_the_frozen_classifier():
    classifier = start_normal(torch.nn.Linear(CHANNELS, 5), torch.Generator().manual_seed(1), std=0.5)
    column = torch.tensor([0, 0, 1, 2, 0, 3, 4, 0])
    config = replace(SMALL, classification_weight=0.01)
    gan, _, _ = made(config, classifier=classifier, column=column)
    fake, labels = torch.rand(4, CHANNELS), torch.tensor([0, 3, 6, 5])
    scores = (fake @ classifier.weight.T + classifier.bias).detach().numpy().astype(float)
    wanted = -np.mean([s[c] - np.log(np.exp(s).sum()) for s, c in zip(scores, [0, 2, 4, 3], strict=True)])
    assert gan.further_losses(fake, labels)["classification"].item() == pytest.approx(0.01 * wanted, rel=1e-5)
    assert not any(p.requires_grad for p in classifier.parameters())


def test_the_stages_are_those_that_there_are():
    def names(**changes):
        return [stage.name for stage in dcr_gan.stages(replace(SMALL, **changes), DATA.dims)]

    assert names() == ["metric", "rectify", "semantic", "searched", "gan"]
    assert names(regressors="joint") == ["metric", "rectify", "gan"]
    assert names(**VARIANT_A) == ["semantic", "classifier", "gan"]


@pytest.mark.parametrize("name", ["semantic_weight", "searched_weight"])
def test_a_weight_of_a_view_that_is_left_out_is_refused(name):
    with pytest.raises(UsageError, match=f"E-RECIPE: czsl_{name} of dcr-gan weighs a view that {name} = 0 leaves out"):
        dcr_gan.Config(**{name: 0.0, f"czsl_{name}": 0.5})
    assert dcr_gan.Config(**{name: 0.0, f"czsl_{name}": 0.0})
