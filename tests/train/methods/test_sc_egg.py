"""SC-EGG against the paper's formulas written out: the big tensor, the losses, the steps, the schedule."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from support.tiny_features import ATTRIBUTES, CHANNELS, REGIONS, WORDS, tiny_training_data
from zsl_runtime.errors import GateError, UsageError
from zsl_train.losses.reconstruction import weighted_l1
from zsl_train.methods import sc_egg
from zsl_train.methods.base import Dims
from zsl_train.methods.lengths import estimate, plan
from zsl_train.methods.sc_egg import PRESETS, Config, build, stages
from zsl_train.methods.sc_egg.config import AT_LEAST_ONE
from zsl_train.methods.sc_egg.eggn import Eggn, VirtualClasses, train_eggn
from zsl_train.methods.sc_egg.embedder import Compression, Embedder, compress_mlp
from zsl_train.methods.sc_egg.guide import Guide, train_guide
from zsl_train.methods.sc_egg.parts import GuideOnPictures, parts_of
from zsl_train.methods.sc_egg.scen import BalancedBatches, Scen, embed_all, region_mean, train_scen
from zsl_train.methods.sc_egg.steps import drawn
from zsl_train.methods.session import Rng, Session
from zsl_train.methods.tf_vaegan import Synthesizer
from zsl_train.nets import AttributeDecoder, Critic, Encoder, Feedback, Generator, MinMaxScaler, start_normal

CLASSES = 8
SMALL = Config(  # every choice written out: the defaults may change
    normalise_words=True,
    centre_regions=False,
    w_beta_std=1.0,
    pooling="mean",
    optimiser="rmsprop",
    classes_in_softmax="seen",
    global_weight=1.0,
    guide="separate",
    guide_hidden=12,
    regression="mean",
    embedding_batch=64,
    stage1_steps=4,
    stage2_steps=4,
    stage3_steps=4,
    hidden=16,
    batch=64,
    reconstruction_weight=0.01,
    reconstruction="weighted-l1",
    freeze_decoder=False,
    adapt_penalty=False,
    feedback_train=1.0,
    feedback_synthesis=1.0,
    seen_guidance=0.1,
    unseen_guidance=0.1,
    learning_rate_decoder=1e-4,
    synthetic_per_class=5,
)
DATA = tiny_training_data()
SEMANTIC = torch.from_numpy(DATA.semantic)
NOTHING = {"loss": torch.zeros(())}


@pytest.fixture
def session(tmp_path) -> Session:
    return Session(tmp_path, lambda _: None)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def scen() -> Scen:
    """In float64 with attention that is not uniform and biases that are not zero."""
    embedder = Embedder(ATTRIBUTES, CHANNELS, "mlp")
    network = Scen(draw(ATTRIBUTES, WORDS).float(), embedder, CLASSES, Config(pooling="mlp"), Rng(1)).double()
    with torch.no_grad():
        network.w_alpha.copy_(draw(WORDS, CHANNELS, seed=2))
    return network


def attended(scen: Scen, regions: torch.Tensor) -> torch.Tensor:
    """h (B, A, V) as the paper has it: for every attribute the regions, weighted by their softmax."""
    out = torch.zeros(len(regions), ATTRIBUTES, CHANNELS, dtype=torch.float64)
    for b in range(len(regions)):
        for n in range(ATTRIBUTES):
            logits = torch.stack([scen.words[n] @ scen.w_alpha @ regions[b, r] for r in range(REGIONS)])
            weights = logits.exp() / logits.exp().sum()
            out[b, n] = sum(weights[r] * regions[b, r] for r in range(REGIONS))
    return out


# --- products in another order ---------------------------------------------------------------------------------------


def test_attribute_scores_are_those_of_the_attended_features(scen):
    regions, semantic = draw(3, REGIONS, CHANNELS, seed=3), draw(CLASSES, ATTRIBUTES, seed=4)
    h = attended(scen, regions)
    e = torch.stack([scen.words[n] @ scen.w_beta @ h[:, n].T for n in range(ATTRIBUTES)], dim=1)  # (B, A)
    got = scen.local_scores(*scen.maps(regions), semantic)
    torch.testing.assert_close(got, e @ semantic.T, rtol=1e-10, atol=1e-12)


def test_mean_pooling_is_the_mean_of_the_attended_features(scen):
    regions = draw(3, REGIONS, CHANNELS, seed=3)
    compression = Compression(ATTRIBUTES, CHANNELS, "mean").double()
    with torch.no_grad():
        compression.query.copy_(scen.words @ scen.w_alpha)
    torch.testing.assert_close(compression(regions), attended(scen, regions).mean(dim=1), rtol=1e-10, atol=1e-12)


def test_the_compression_mlp_runs_along_the_attributes_of_every_channel(scen):
    regions = draw(3, REGIONS, CHANNELS, seed=3)
    h = attended(scen, regions)
    hidden = h.transpose(1, 2) @ scen.first.weight.T + scen.first.bias  # (B, V, A / 2)
    assert hidden.shape[2] == ATTRIBUTES // 2
    assert (hidden < 0).any()
    wanted = torch.where(hidden > 0, hidden, 0.01 * hidden) @ scen.last.weight[0] + scen.last.bias
    attention = scen.maps(regions)[0]
    got = compress_mlp(attention, regions, scen.first, scen.last)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(scen.global_feature(attention, regions), wanted, rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(got.square().sum(), [scen.w_alpha, scen.first.weight, scen.last.weight])
    theirs = torch.autograd.grad(wanted.square().sum(), [scen.w_alpha, scen.first.weight, scen.last.weight])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "mlp"])
def test_the_embedder_computes_what_stage_one_trained(scen, pooling):
    regions = draw(3, REGIONS, CHANNELS, seed=3)
    scen.embedder = Embedder(ATTRIBUTES, CHANNELS, pooling).double()
    scen.write_embedder()
    unit = regions / regions.norm(dim=2, keepdim=True)
    h = attended(scen, unit)
    if pooling == "mean":
        wanted = h.mean(dim=1)
    else:
        hidden = functional.leaky_relu(scen.first(h.transpose(1, 2)), 0.01)
        wanted = scen.last(hidden).squeeze(2)
    torch.testing.assert_close(scen.embedder.compress(regions), wanted, rtol=1e-10, atol=1e-12)
    scen.embedder.scaler.fit(wanted.detach())
    scaled = (wanted - wanted.amin(0)) / (wanted.amax(0) - wanted.amin(0))
    torch.testing.assert_close(scen.embedder(regions), scaled, rtol=1e-9, atol=1e-10)


def test_attention_starts_uniform_and_the_words_of_unit_length():
    words = draw(ATTRIBUTES, WORDS).float()
    words[2] = 0  # no word of it was known
    start = Scen(words, Embedder(ATTRIBUTES, CHANNELS, "mean"), CLASSES, replace(SMALL, w_beta_std=0.5), Rng(0))
    attention, evidence = start.maps(draw(2, REGIONS, CHANNELS).float())
    torch.testing.assert_close(attention, torch.full((2, REGIONS, ATTRIBUTES), 1 / REGIONS))
    assert evidence.isfinite().all()
    norms = start.words.norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(start.w_beta, 0.5 * Rng(0).normal(WORDS, CHANNELS))
    plain = Scen(words, Embedder(ATTRIBUTES, CHANNELS, "mean"), CLASSES, replace(SMALL, normalise_words=False), Rng(0))
    assert torch.equal(plain.words, words)


def test_the_centre_is_the_mean_of_all_training_regions():
    embedder = Embedder(ATTRIBUTES, CHANNELS, "mean")
    unit = DATA.regions[DATA.rows].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=2, keepdims=True)
    wanted = unit.reshape(-1, CHANNELS).mean(axis=0)
    np.testing.assert_allclose(region_mean(DATA, embedder, block=7).numpy(), wanted, rtol=1e-5)
    embedder.centre.copy_(torch.from_numpy(wanted))
    regions = torch.from_numpy(DATA.regions[DATA.rows].astype(np.float32))
    np.testing.assert_allclose(embedder.normalise(regions).numpy(), unit - wanted, atol=1e-6)


def test_blocks_do_not_change_what_is_computed_for_all_pictures():
    regions = torch.from_numpy(DATA.regions[DATA.rows].astype(np.float32))
    whole = embed_all(DATA, lambda x: x.mean(dim=1), block=1000)
    torch.testing.assert_close(whole, regions.mean(dim=1))
    torch.testing.assert_close(embed_all(DATA, lambda x: x.mean(dim=1), block=7), whole)


# --- batches ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 20), st.integers(0, 5))
@settings(max_examples=80)
def test_batches_are_balanced_for_any_number_of_classes(counts, batch, seed):
    labels = np.repeat(np.arange(len(counts)) * 3 + 1, counts)  # any numbers may name classes
    labels = np.random.default_rng(seed).permutation(labels)
    batches = BalancedBatches(labels, batch, Rng(seed))
    for _ in range(3):
        chosen = batches.draw().numpy()
        each = max(1, batch // len(counts))
        classes, times = np.unique(labels[chosen], return_counts=True)
        assert len(classes) == min(batch, len(counts))
        assert (times == each).all()
        assert len(chosen) == drawn(batch, len(counts)) <= max(batch, 1)
        for one in classes:
            own = chosen[labels[chosen] == one]
            if each <= (labels == one).sum():
                assert len(set(own.tolist())) == each  # only a class with too few pictures repeats some


# --- stages one and two ----------------------------------------------------------------------------------------------


def first_losses(config: Config, session: Session) -> dict[str, float]:
    """Losses of stage 1's first step on a batch that is the whole training set."""
    heard = []
    session._progress = lambda name, stage, done, total, losses: heard.append(losses)
    train_scen(DATA, replace(config, embedding_batch=len(DATA.rows), stage1_steps=1), session, 5)
    return heard[0]


@pytest.mark.parametrize("classes", ["seen", "all"])
def test_the_first_losses_are_the_cross_entropies_of_the_paper(session, classes):
    got = first_losses(replace(SMALL, classes_in_softmax=classes, global_weight=0.5), session)
    start = Scen(torch.from_numpy(DATA.word_vectors), Embedder(ATTRIBUTES, CHANNELS, "mean"), CLASSES, SMALL, Rng(5))
    regions = functional.normalize(torch.from_numpy(DATA.regions[DATA.rows].astype(np.float32)), dim=2)
    h = regions.mean(dim=1).double()[:, None].expand(-1, ATTRIBUTES, -1)  # attention is uniform at the start
    e = torch.einsum("nw,wv,bnv->bn", start.words.double(), start.w_beta.double(), h)
    local = (e @ torch.from_numpy(DATA.semantic).double().T).detach().numpy()
    hidden = functional.leaky_relu(start.first.double()(h.transpose(1, 2)), 0.01)
    scores = start.classifier.double()(start.last.double()(hidden).squeeze(2)).detach().numpy()
    columns = np.flatnonzero(DATA.table.seen) if classes == "seen" else np.arange(CLASSES)
    for name, logits, weight in (("local", local, 1.0), ("global", scores, 0.5)):
        losses = [
            np.log(np.exp(row[columns]).sum()) - row[label] for row, label in zip(logits, DATA.labels, strict=True)
        ]
        assert got[name] == pytest.approx(weight * np.mean(losses), rel=1e-5)


def test_without_a_global_weight_the_mlp_is_left_out(session):
    assert set(first_losses(replace(SMALL, global_weight=0.0), session)) == {"local"}


@pytest.mark.parametrize("pooling", ["mean", "mlp"])
def test_the_shared_guide_sees_the_feature_before_scaling(session, pooling):
    config = replace(SMALL, guide="shared", pooling=pooling)
    scen = train_scen(DATA, config, session, 0)
    guide, features = train_guide(DATA, scen, config, session, 1)
    raw = embed_all(DATA, scen.embedder.compress)
    torch.testing.assert_close(features.amin(0), torch.zeros(CHANNELS))
    torch.testing.assert_close(features.amax(0), torch.ones(CHANNELS))
    scores = guide(features, SEMANTIC)
    torch.testing.assert_close(scores, scen.classifier(raw), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scores, scen.classifier(features), atol=1e-2)


def test_the_separate_guide_sees_the_scaled_feature_and_leaves_stage_one_alone(session):
    scen = train_scen(DATA, SMALL, session, 0)
    before = copy.deepcopy(scen.state_dict())
    guide, features = train_guide(DATA, scen, SMALL, session, 1)
    first, slope, last = guide.layers
    assert (first.out_features, slope.negative_slope, last.out_features) == (12, 0.01, CLASSES)
    torch.testing.assert_close(guide(features, SEMANTIC), last(functional.leaky_relu(first(features), 0.01)))
    for name, value in scen.state_dict().items():
        if not name.startswith("embedder."):
            assert torch.equal(value, before[name]), name


def test_the_shared_guide_leaves_the_local_network_alone_and_trains_the_compression(session):
    config = replace(SMALL, guide="shared", pooling="mlp")
    scen = train_scen(DATA, config, session, 0)
    before = copy.deepcopy(scen.state_dict())
    train_guide(DATA, scen, config, session, 1)
    changed = {name for name, value in scen.state_dict().items() if not torch.equal(value, before[name])}
    assert {"classifier.weight", "first.weight", "last.weight"} <= changed
    assert not {"words", "w_alpha", "w_beta"} & changed
    torch.testing.assert_close(scen.embedder.compression.first.weight, scen.first.weight)


@pytest.mark.parametrize(("rule", "factor"), [("mean", 1.0), ("sum", float(CLASSES))])
def test_stage_two_learns_the_local_scores_of_all_classes(session, rule, factor):
    config = replace(SMALL, embedding_batch=len(DATA.rows), stage2_steps=1, regression=rule)
    scen = train_scen(DATA, config, session, 0)
    heard = []
    session._progress = lambda name, stage, done, total, losses: heard.append((stage, losses))
    session.folder /= "again"  # a guide of its own
    train_guide(DATA, scen, config, session, 1)
    regions = functional.normalize(torch.from_numpy(DATA.regions[DATA.rows].astype(np.float32)), dim=2)
    target = scen.local_scores(*scen.maps(regions), torch.from_numpy(DATA.semantic)).detach()
    rng = Rng(1)  # the guide's first weights, drawn again
    shapes = ((12, CHANNELS), (12,), (CLASSES, 12), (CLASSES,))
    w1, b1, w2, b2 = ((2 * rng.uniform(*s) - 1) / np.sqrt(CHANNELS if s[0] == 12 else 12) for s in shapes)
    features = scen.embedder.scaler(embed_all(DATA, scen.embedder.compress))
    scores = functional.leaky_relu(features @ w1.T + b1, 0.01) @ w2.T + b2
    assert heard == [("guide", {"regression": pytest.approx(factor * float((scores - target).square().mean()))})]


@pytest.mark.parametrize("pooling", ["mlp", "mean"])
def test_a_shared_guide_begins_as_stage_one_s_classifier_scaled_or_not_and_is_asked_about_scaled_features(
    tmp_path, pooling
):
    paper = replace(SMALL, pooling=pooling, guide="shared", optimiser="adam", regression="sum")
    paper = replace(paper, embedding_batch=len(DATA.rows), learning_rate_embedding=0.01, stage2_steps=3)
    losses = {}
    for kind in ("unscaled", "scaled"):
        config = replace(paper, guide_feature=kind)
        heard = []
        session = Session(tmp_path / kind, lambda _: None, progress=lambda *told, heard=heard: heard.append(told[-1]))
        scen = train_scen(DATA, config, session, 0)
        regions = scen.embedder.normalise(torch.from_numpy(DATA.regions[DATA.rows].astype(np.float32)))
        attention, regional = scen.maps(regions)
        feature = (
            scen.global_feature(attention, regions) if pooling == "mlp" else (attention.mean(2, True) * regions).sum(1)
        )
        target = scen.local_scores(attention, regional, SEMANTIC)
        first = float((scen.classifier(feature) - target).detach().square().sum(dim=1).mean())
        guide, features = train_guide(DATA, scen, config, session, 1)
        losses[kind] = [one["regression"] for one in heard if "regression" in one]
        assert losses[kind][0] == pytest.approx(first, rel=1e-4)
        raw = embed_all(DATA, scen.embedder.compress)
        low, high = raw.amin(dim=0), raw.amax(dim=0)
        torch.testing.assert_close(features, (raw - low) / (high - low))
        with torch.no_grad():
            torch.testing.assert_close(guide(features, SEMANTIC), guide.layers(raw), rtol=1e-3, atol=1e-3)
    assert losses["scaled"][2] < losses["unscaled"][2] < losses["unscaled"][0]  # the same rate goes further


# --- stage three -----------------------------------------------------------------------------------------------------


def made_eggn(**changes) -> Eggn:
    features = torch.rand(len(DATA.rows), CHANNELS, generator=torch.Generator().manual_seed(1))
    guide = Guide(start_normal(nn.Linear(CHANNELS, CLASSES), torch.Generator().manual_seed(2), std=0.3), None)
    config = replace(SMALL, batch=7, critic_steps=2, learning_rate_gan=1e-2, learning_rate_feedback=1e-2, **changes)
    eggn = Eggn(features, DATA, guide, config, Rng(3))
    generator = torch.Generator().manual_seed(4)
    for network in networks(eggn).values():
        start_normal(network, generator, std=0.4)  # far from the start, where every term has a say
    return eggn


def networks(eggn: Eggn) -> dict[str, nn.Module]:
    return {name: getattr(eggn, name) for name in ("encoder", "generator", "critic", "decoder", "feedback")}


def frozen_copy(eggn: Eggn) -> dict[str, dict[str, torch.Tensor]]:
    return {name: copy.deepcopy(network.state_dict()) for name, network in networks(eggn).items()}


def changed(eggn: Eggn, before) -> set[str]:
    return {
        name
        for name, network in networks(eggn).items()
        if any(not torch.equal(value, before[name][key]) for key, value in network.state_dict().items())
    }


def slow_generate(eggn: Eggn, noise, semantic, weight: float) -> torch.Tensor:
    """Generate; with feedback, look at the decoder's hidden layer (as a constant) and generate again."""
    fake = eggn.generator(noise, semantic)
    if weight == 0:
        return fake
    hidden = eggn.decoder(fake)[1].detach()
    return eggn.generator(noise, semantic, weight * eggn.feedback(hidden))


def slow_batch(eggn: Eggn):
    chosen = eggn.rng.permutation(len(eggn.features))[:7]
    labels = torch.from_numpy(DATA.labels)[chosen]
    return eggn.features[chosen], torch.from_numpy(DATA.semantic)[labels], labels


@pytest.mark.parametrize("weight", [0.0, 0.8])
@pytest.mark.parametrize("encoded", [True, False])
def test_a_critic_step_is_wgan_gp_and_a_decoder_step(weight, encoded):
    eggn = made_eggn(encoded_noise=encoded, critic_weight=3.0, penalty=4.0)
    other, before = copy.deepcopy(eggn), frozen_copy(eggn)
    penalty, distance, decoded = eggn._critic_step(eggn.batches.draw(), weight)
    # The same by hand: double backward, formulas of docs/methods.md 1.4 and 7.2. Gradients are compared: one step of
    # Adam makes a full step of every gradient, those that are 0 but for rounding included.
    real, semantic, _ = slow_batch(other)
    loss = 0.01 * weighted_l1(other.decoder(real)[0], semantic)
    loss.backward()
    same_gradients(eggn.decoder, other.decoder)
    torch.testing.assert_close(decoded, loss.detach())
    other.decoder.load_state_dict(eggn.decoder.state_dict())  # fakes come after the decoder's step
    noise = other.rng.normal(7, ATTRIBUTES)
    if encoded:
        mean, log_variance = other.encoder(real, semantic)
        noise = mean + torch.exp(0.5 * log_variance) * noise
    fake = slow_generate(other, noise, semantic, weight).detach()
    gap = other.critic(real, semantic).mean() - other.critic(fake, semantic).mean()
    mix = other.rng.uniform(7, 1)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(other.critic(between, semantic).sum(), between, create_graph=True)
    squared = ((slope.norm(dim=1) - 1) ** 2).mean()
    (3.0 * (4.0 * squared - gap)).backward()
    same_gradients(eggn.critic, other.critic)
    torch.testing.assert_close(distance, gap.detach())
    torch.testing.assert_close(penalty, squared.detach())
    assert changed(eggn, before) == {"critic", "decoder"}


def same_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_the_optimisers_have_the_published_rates_and_decays():
    eggn = made_eggn()
    found = {name: (adam.defaults["lr"], adam.defaults["betas"]) for name, adam in eggn.adam.items()}
    late = (0.5, 0.999)
    assert found == {
        "encoder": (1e-2, (0.9, 0.999)),
        "generator": (1e-2, late),
        "critic": (1e-2, late),
        "decoder": (1e-4, late),
        "feedback": (1e-2, late),
    }


@pytest.mark.parametrize("weight", [0.0, 0.8])
@pytest.mark.parametrize("encoded", [True, False])
def test_a_generator_step_minimises_the_sum_of_its_terms(weight, encoded):
    eggn = made_eggn(encoded_noise=encoded, critic_weight=3.0, seen_guidance=0.7, unseen_guidance=0.6)
    other, before = copy.deepcopy(eggn), frozen_copy(eggn)
    got = eggn._generator_step(eggn.batches.draw(), weight)
    real, semantic, labels = slow_batch(other)
    mean, log_variance = other.encoder(real, semantic)
    fake = slow_generate(other, mean + torch.exp(log_variance / 2) * other.rng.normal(7, ATTRIBUTES), semantic, weight)
    judged = fake if encoded else slow_generate(other, other.rng.normal(7, ATTRIBUTES), semantic, weight)
    unseen = torch.from_numpy(np.flatnonzero(~DATA.table.seen))[other.rng.integers(3, 7)]
    described = torch.from_numpy(DATA.semantic)[unseen]
    imagined = slow_generate(other, other.rng.normal(7, ATTRIBUTES), described, weight)
    wanted = {
        "bce": -(real * fake.log() + (1 - real) * (1 - fake).log()).sum() / 7,
        "kl": -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / 7,
        "critic": -3.0 * other.critic(judged, semantic).mean(),
        "attribute": 0.01 * weighted_l1(other.decoder(judged)[0], semantic),
        "seen_guidance": 0.7 * functional.cross_entropy(other.guide(fake, SEMANTIC), labels),
        "unseen_guidance": 0.6 * functional.cross_entropy(other.guide(imagined, SEMANTIC), unseen),
    }
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert changed(eggn, before) == {"encoder", "generator", "decoder"} | ({"feedback"} if weight else set())
    sum(wanted.values()).backward()
    for name in changed(eggn, before):
        same_gradients(networks(eggn)[name], networks(other)[name])


def test_terms_of_weight_zero_are_left_out_and_a_frozen_decoder_stays():
    eggn = made_eggn(freeze_decoder=True, seen_guidance=0.0, unseen_guidance=0.0)
    before = frozen_copy(eggn)
    assert set(eggn._generator_step(eggn.batches.draw(), 0.0)) == {"bce", "kl", "critic", "attribute"}
    assert changed(eggn, before) == {"encoder", "generator"}


def test_without_unseen_classes_nothing_is_imagined_of_them():
    eggn = made_eggn()
    eggn.unseen = eggn.unseen[:0]
    assert "unseen_guidance" not in eggn._generator_step(eggn.batches.draw(), 0.0)


def test_the_guide_is_never_trained():
    eggn = made_eggn()
    before = copy.deepcopy(eggn.guide.state_dict())
    eggn.outer_step(with_feedback=True)
    assert all(torch.equal(value, before[name]) for name, value in eggn.guide.state_dict().items())


@pytest.mark.parametrize(
    ("mean", "after"), [(1.06, 11.0), (1.05, 10.0), (1.02, 10.0), (1.001, 10.0), (1.0, 10 / 1.1), (0.0, 10 / 1.1)]
)
def test_the_penalty_weight_follows_the_published_rule(mean, after):
    eggn = made_eggn()
    eggn._adapt_penalty(mean)
    assert eggn.penalty.value == pytest.approx(after)


@pytest.mark.parametrize("adapt", [True, False])
def test_the_rule_sees_the_mean_penalty_of_the_critic_steps(adapt, monkeypatch):
    eggn, told = made_eggn(adapt_penalty=adapt), []
    zero = torch.tensor(0.0)
    penalties = iter([torch.tensor(1.0), torch.tensor(3.0)])
    monkeypatch.setattr(eggn, "_critic_step", lambda batch, weight: (next(penalties), zero, zero))
    monkeypatch.setattr(eggn, "_adapt_penalty", told.append)
    eggn.outer_step(with_feedback=False)
    assert told == ([2.0] if adapt else [])


def test_feedback_is_used_in_every_second_loop_only(session, monkeypatch):
    heard = []
    monkeypatch.setattr(Eggn, "outer_step", lambda self, *, with_feedback: heard.append(with_feedback) or NOTHING)
    config = replace(SMALL, batch=12, stage3_steps=11)  # 40 pictures: 3 steps a loop
    scen = train_scen(DATA, config, session, 0)
    guide, features = train_guide(DATA, scen, config, session, 1)
    train_eggn(features, DATA, guide, scen.embedder, config, parts={}, session=session, seed=2)
    assert heard == [False] * 3 + [True] * 3 + [False] * 3 + [True] * 2


@pytest.mark.parametrize(("with_feedback", "weight"), [(False, 0.0), (True, 0.6)])
def test_the_feedback_network_learns_in_the_second_loop_only(with_feedback, weight, monkeypatch):
    eggn, seen = made_eggn(feedback_train=0.6), []
    real = Eggn._generate
    monkeypatch.setattr(Eggn, "_generate", lambda self, z, a, w: (seen.append(w), real(self, z, a, w))[1])
    before = frozen_copy(eggn)
    eggn.outer_step(with_feedback=with_feedback)
    assert ("feedback" in changed(eggn, before)) == with_feedback
    assert set(seen) == {weight}


# --- evidence and virtual classes ------------------------------------------------------------------------------------

EVIDENCE = replace(SMALL, guide_target="evidence", guided_on="virtual")


def rows_of(kind: str, *, unit: bool = False) -> torch.Tensor:
    """Attribute vectors of 7 classes: 0 or 1, 0 or 5, or shares."""
    rng = np.random.default_rng(8)
    rows = rng.random((7, 9))
    if kind != "shares":
        rows = (5.0 if kind == "five" else 1.0) * (rows < 0.4)
        rows[:, 0] = rows.max(axis=1)
    rows = torch.from_numpy(rows).float()
    return functional.normalize(rows, dim=1) if unit else rows


def test_virtual_classes_of_zeros_and_ones_take_each_attribute_from_a_seen_class():
    seen = rows_of("ones")
    drawn = VirtualClasses(seen, Rng(3)).draw(400)
    assert drawn.shape == (400, 9)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn[:, 0] == 1).all()  # all seen classes have it
    assert (drawn[:, (seen == 0).all(dim=0)] == 0).all()
    torch.testing.assert_close(drawn.mean(dim=0), seen.mean(dim=0), atol=0.1, rtol=0)
    new = {tuple(row.tolist()) for row in drawn} - {tuple(row.tolist()) for row in seen}
    assert len(new) > 50
    assert set(VirtualClasses(rows_of("five"), Rng(3)).draw(50).unique().tolist()) == {0.0, 5.0}


def test_no_virtual_class_is_without_any_attribute():
    """Of classes with one attribute each most mixtures would be: then it is the first of the three."""
    drawn = VirtualClasses(2 * torch.eye(9), Rng(3)).draw(200) / 2
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(dim=1) >= 1).all()
    assert (drawn.sum(dim=1) > 1).any()


@pytest.mark.parametrize("kind", ["ones", "shares"])
def test_sizes_of_virtual_classes_do_not_depend_on_what_is_drawn(kind):
    """A step that is recorded on a card can ask for none of its numbers, which tensors without numbers show."""
    virtual = VirtualClasses(rows_of(kind, unit=True), Rng(3))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        virtual.seen = mode.from_tensor(virtual.seen)
        assert virtual.draw(20).shape == (20, 9)


def test_of_unit_vectors_virtual_ones_are_of_unit_length_and_those_of_zeros_and_ones_have_two_values():
    for kind in ("ones", "shares"):
        drawn = VirtualClasses(rows_of(kind, unit=True), Rng(3)).draw(200)
        torch.testing.assert_close(drawn.norm(dim=1), torch.ones(200))
        sizes = {len(row[row != 0].unique()) for row in drawn}
        assert (sizes == {1}) == (kind == "ones")


def test_a_class_with_the_smallest_of_all_attributes_does_not_change_the_length_of_virtual_ones():
    """Where attributes are scaled its vector is 0, while the others are of unit length."""
    seen = rows_of("shares", unit=True)
    seen[2] = 0
    lengths = VirtualClasses(seen, Rng(3)).draw(200).norm(dim=1)
    nothing = lengths == 0
    torch.testing.assert_close(lengths[~nothing], torch.ones(int((~nothing).sum())))
    assert nothing.sum() < 20


def test_virtual_classes_of_shares_are_convex_mixtures_of_three_seen_ones():
    """Uniform on the simplex: no corner is preferred, and weights of 1/3 vary by 1/18."""
    seen = torch.eye(6) + 0.5  # a row's coordinates tell its mixture
    weights = VirtualClasses(seen, Rng(5)).draw(3000) - 0.5
    assert weights.min() > -1e-6
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3000))
    assert (weights > 1e-6).sum(dim=1).max() == 3
    three = weights[(weights > 1e-6).sum(dim=1) == 3]
    parts = three[three > 1e-6]
    assert float(parts.var()) == pytest.approx(1 / 18, rel=0.1)
    torch.testing.assert_close(weights.mean(dim=0), torch.full((6,), 1 / 6), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["ones", "shares"])
def test_virtual_classes_are_seeded(kind):
    seen = rows_of(kind)
    one, same, other = (VirtualClasses(seen, Rng(seed)) for seed in (1, 1, 2))
    first = one.draw(20)
    assert torch.equal(first, same.draw(20))
    assert not torch.equal(first, other.draw(20))
    assert not torch.equal(first, one.draw(20))


def test_the_guide_of_evidence_learns_the_local_network_s_and_scores_any_attribute_vector(tmp_path):
    config = replace(EVIDENCE, stage1_steps=60, stage2_steps=1500, guide_hidden=64, learning_rate_embedding=3e-3)
    session = Session(tmp_path, lambda _: None)
    scen = train_scen(DATA, config, session, 0)
    guide, features = train_guide(DATA, scen, config, session, 1)
    regions = functional.normalize(torch.from_numpy(DATA.regions[DATA.rows].astype(np.float32)), dim=2)
    semantic = torch.cat([SEMANTIC, torch.rand(5, ATTRIBUTES)])
    wanted = scen.local_scores(*scen.maps(regions), semantic).detach()
    got = guide(features, semantic).detach()
    assert guide.layers(features).shape == (len(DATA.rows), ATTRIBUTES)
    assert got.shape == wanted.shape == (len(DATA.rows), CLASSES + 5)
    explained = 1 - (got - wanted).square().sum() / (wanted - wanted.mean(dim=0)).square().sum()
    assert explained > 0.9
    assert (got.argmax(dim=1) == wanted.argmax(dim=1)).float().mean() > 0.9


def test_stage_two_s_target_is_the_evidence(session):
    config = replace(EVIDENCE, embedding_batch=len(DATA.rows), stage2_steps=1)
    scen = train_scen(DATA, config, session, 0)
    heard = []
    session._progress = lambda name, stage, done, total, losses: heard.append(losses["regression"])
    session.folder /= "again"
    train_guide(DATA, scen, config, session, 1)
    regions = functional.normalize(torch.from_numpy(DATA.regions[DATA.rows].astype(np.float32)), dim=2)
    target = scen.evidence(*scen.maps(regions)).detach()
    rng = Rng(1)
    shapes = ((12, CHANNELS), (12,), (ATTRIBUTES, 12), (ATTRIBUTES,))
    w1, b1, w2, b2 = ((2 * rng.uniform(*s) - 1) / np.sqrt(CHANNELS if s[0] == 12 else 12) for s in shapes)
    features = scen.embedder.scaler(embed_all(DATA, scen.embedder.compress))
    given_ = functional.leaky_relu(features @ w1.T + b1, 0.01) @ w2.T + b2
    assert heard == [pytest.approx(float((given_ - target).square().mean()))]


def evidence_eggn(**changes) -> Eggn:
    features = torch.rand(len(DATA.rows), CHANNELS, generator=torch.Generator().manual_seed(1))
    layers = start_normal(nn.Linear(CHANNELS, ATTRIBUTES), torch.Generator().manual_seed(2), std=0.3)
    eggn = Eggn(features, DATA, Guide(layers, evidence=True), replace(EVIDENCE, batch=3, **changes), Rng(3))
    start_normal(eggn.generator, torch.Generator().manual_seed(4), std=0.4)
    return eggn


def test_the_loss_on_virtual_classes_is_told_by_hand():
    """Each of the batch against all known classes and the others of the batch."""
    eggn = evidence_eggn()
    other = copy.deepcopy(eggn)
    got = eggn._unseen_guidance(0.0)
    described = other.virtual.draw(3)
    fake = other.generator(other.rng.normal(3, ATTRIBUTES), described).detach().double().numpy()
    weight, bias = (p.detach().double().numpy() for p in other.guide.layers.parameters())
    losses = []
    for row in range(3):
        evidence = weight @ fake[row] + bias
        known = [float(evidence @ a) for a in DATA.semantic.astype(np.float64)]
        virtual = [float(evidence @ a) for a in described.double().numpy()]
        losses.append(np.log(np.sum(np.exp(known + virtual))) - virtual[row])
    assert float(got.detach()) == pytest.approx(np.mean(losses), rel=1e-5)
    got.backward()
    assert all(p.grad.abs().sum() > 0 for p in eggn.generator.parameters() if p.ndim == 2)


def test_virtual_classes_are_mixed_from_seen_ones_alone_and_need_no_unseen_ones():
    eggn = evidence_eggn()
    torch.testing.assert_close(eggn.virtual.seen, SEMANTIC[torch.from_numpy(DATA.table.seen)])
    eggn.unseen = eggn.unseen[:0]
    assert "unseen_guidance" in eggn._generator_step(eggn.batches.draw(), 0.0)
    assert made_eggn().virtual is None
    assert "unseen_guidance" not in evidence_eggn(unseen_guidance=0.0)._further_losses(
        torch.rand(3, CHANNELS), torch.tensor([0, 2, 3]), 0.0
    )


def test_evidence_beside_the_compressed_feature_is_the_local_network_s_and_each_is_divided_by_its_spread(tmp_path):
    config = replace(EVIDENCE, feature="evidence", stage1_steps=20)
    session = Session(tmp_path, lambda _: None)
    scen = train_scen(DATA, config, session, 0)
    guide, _ = train_guide(DATA, scen, config, session, 1)
    rows = torch.from_numpy(DATA.regions[DATA.rows].astype(np.float32))
    unit = functional.normalize(rows, dim=2)
    evidence = scen.evidence(*scen.maps(unit)).detach().double()
    compressed = scen.embedder.compress(rows).detach().double()
    spreads = [float((x - x.mean(dim=0)).square().mean().sqrt()) for x in (compressed, evidence)]
    wanted = torch.cat([compressed / spreads[0], evidence / spreads[1]], dim=1)
    torch.testing.assert_close(scen.embedder(rows).detach().double(), wanted, rtol=1e-4, atol=1e-4)
    # What is synthesized has the guide's evidence; the published lift looks at the scaled compressed part alone.
    made = build(config, DATA.dims)
    assert made.feature_width == CHANNELS + ATTRIBUTES
    made.synthesizer.guide.load_state_dict(guide.layers.state_dict())
    for part in (made.embedder, made.synthesizer, made.lift):
        part.beside.load_state_dict(scen.embedder.beside.state_dict())
        part.scaler.load_state_dict(scen.embedder.scaler.state_dict())
    semantic, noise = torch.rand(4, ATTRIBUTES), torch.randn(4, made.noise_width)
    scaled = made.synthesizer.synthesizer(semantic, noise)
    drawn = made.synthesizer(semantic, noise)
    torch.testing.assert_close(drawn[:, CHANNELS:] * spreads[1], guide.layers(scaled), rtol=1e-4, atol=1e-5)
    low, high = compressed.amin(0).float(), compressed.amax(0).float()
    torch.testing.assert_close(drawn[:, :CHANNELS] * spreads[0], scaled * (high - low) + low, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.lift(drawn), made.lift.lift(scaled), rtol=1e-3, atol=1e-4)


class CutError(Exception):
    """What a test interrupts a training with."""


@pytest.mark.parametrize("stage", ["scen", "guide", "eggn"])
def test_interrupted_with_evidence_and_virtual_classes_it_goes_on_to_the_same_weights(tmp_path, stage):
    config = replace(EVIDENCE, feature="evidence")
    whole = sc_egg.fit(DATA, config, Session(tmp_path / "whole", lambda _: None), 0)

    def cut(_, here, done, total, losses) -> None:
        if (here, done) == (stage, 3):
            raise CutError

    with pytest.raises(CutError):
        sc_egg.fit(DATA, config, Session(tmp_path / "cut", lambda _: None, progress=cut, save_seconds=-1), 0)
    torch.manual_seed(5)
    again = sc_egg.fit(DATA, config, Session(tmp_path / "cut", lambda _: None), 0)
    state, wanted = again.state_dict(), whole.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    rebuilt = build(config, DATA.dims)
    rebuilt.load_state_dict(wanted)
    semantic, noise = torch.rand(4, ATTRIBUTES), torch.randn(4, whole.noise_width)
    assert torch.equal(rebuilt.eval().synthesizer(semantic, noise), whole.synthesizer(semantic, noise))
    assert list(again.parts) == list(whole.parts) == ["local network", "guide"]
    pictures = torch.rand(5, REGIONS, CHANNELS)
    for name, part in whole.parts.items():
        assert torch.equal(again.parts[name](pictures, semantic), part(pictures, semantic)), name


# --- what is shipped -------------------------------------------------------------------------------------------------


def test_a_synthesizer_with_feedback_generates_twice():
    seed = torch.Generator().manual_seed(0)
    generator = start_normal(Generator(3, 4, 9, 5), seed, std=0.5)
    decoder = start_normal(AttributeDecoder(5, 9, 4), seed, std=0.5)
    feedback = start_normal(Feedback(9), seed, std=0.5)
    semantic, noise = draw(6, 4).float(), draw(6, 3, seed=1).float()
    once = generator(noise, semantic)
    assert torch.equal(Synthesizer(generator, None, None, 0.0)(semantic, noise), once)
    twice = generator(noise, semantic, 0.3 * feedback(decoder(once)[1]))
    torch.testing.assert_close(Synthesizer(generator, decoder, feedback, 0.3)(semantic, noise), twice)
    assert not torch.allclose(once, twice, atol=1e-3)


@pytest.mark.parametrize("feedback", [0.0, 0.5])
def test_the_shipped_modules_have_the_widths_they_say(feedback):
    config = replace(SMALL, feedback_synthesis=feedback, synthetic_per_class=9, head_learning_rate=0.02, head_epochs=4)
    trained = build(config, DATA.dims)
    f = trained.embedder(torch.rand(3, REGIONS, CHANNELS))
    assert f.shape == (3, trained.feature_width) == (3, CHANNELS)
    x = trained.lift(f)
    assert x.shape == (3, trained.lifted_width) == (3, CHANNELS + ATTRIBUTES + 16)
    assert torch.equal(x[:, :CHANNELS], f)
    semantic, hidden = trained.lift.decoder(f)
    assert torch.equal(x[:, CHANNELS:], torch.cat([semantic, hidden], dim=1))
    noise = torch.randn(2, trained.noise_width)
    assert trained.synthesizer(torch.rand(2, ATTRIBUTES), noise).shape == (2, CHANNELS)
    assert ("synthesizer.feedback.first.weight" in trained.state_dict()) == (feedback > 0)
    (view,) = trained.views
    assert (view.start, view.stop, view.weight) == (0, trained.lifted_width, 1.0)
    assert (view.fit.epochs, view.fit.batch_size, view.fit.learning_rate) == (4, 9, 0.02)
    assert build(replace(config, head_batch=3), DATA.dims).views[0].fit.batch_size == 3


# --- settings and lengths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        *(({name: 0}, f"{name} = 0 of sc-egg; expected at least 1") for name in AT_LEAST_ONE),
        ({"guide": "shared", "pooling": "mlp", "global_weight": 0.0}, "needs global_weight > 0"),
        ({"guided_on": "virtual"}, "need a separate guide that learns the evidence"),
        ({"feature": "evidence"}, "need a separate guide that learns the evidence"),
        ({"guided_on": "virtual", "guide_target": "evidence", "guide": "shared"}, "need a separate guide"),
        ({"head_epochs": 0}, "cannot fit a head"),
        ({"head_learning_rate": 0.0}, "cannot fit a head"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_training(changes, part):
    with pytest.raises(UsageError, match=part):
        Config(**changes)


def test_presets_are_what_they_cite():
    paper, code = (replace(Config(), **PRESETS[name]) for name in ("paper", "code"))
    assert (paper.pooling, paper.guide, paper.optimiser, paper.regression) == ("mlp", "shared", "adam", "sum")
    assert (paper.seen_guidance, paper.unseen_guidance, paper.reconstruction) == (0.1, 0.1, "l1")
    assert (paper.stage1_epochs, paper.stage2_epochs, paper.stage3_epochs) == (20.0, 20.0, 200.0)
    assert (code.pooling, code.guide, code.optimiser, code.regression) == ("mean", "separate", "rmsprop", "mean")
    assert (code.stage1_steps, code.stage2_steps, code.stage3_epochs) == (2000, 4000, 50.0)
    assert (code.seen_guidance, code.unseen_guidance, code.feedback_train) == (1.0, 0.001, 0.0)


def test_stages_are_those_of_the_algorithm_and_the_third_alone_on_plain_vectors():
    config = Config(stage1_epochs=20, stage2_epochs=2, stage3_epochs=5, embedding_batch=64, batch=32)
    dims = Dims(regions=81, channels=1280, attributes=312, word_width=300, classes=20, seen=16)
    lengths = {"stage1": 200, "stage2": 20, "stage3": 200}  # an epoch of stage 3 is two loops
    assert plan(stages(config, dims), config, 640) == lengths
    assert plan(stages(config, replace(dims, regions=1)), config, 640) == {"stage3": 200}


@pytest.mark.parametrize(
    ("seen", "rows"),
    [(40, 40), (150, 64), (645, 64), (13, 52), (0, 60)],  # AWA2, CUB, SUN, 20 birds; not noted: all 60 classes
)
def test_an_epoch_of_balanced_batches_counts_the_rows_that_are_drawn(seen, rows):
    dims = Dims(regions=196, channels=2048, attributes=85, word_width=300, classes=max(seen, 50) + 10, seen=seen)
    config = Config(stage1_epochs=20.0, stage2_epochs=10.0)
    lengths = plan(stages(config, dims), config, 23527)
    assert (lengths["stage1"], lengths["stage2"]) == (round(20 * 23527 / rows), round(10 * 23527 / rows))


def test_the_estimate_grows_with_everything_that_costs():
    dims = Dims(regions=81, channels=1280, attributes=312, word_width=300, classes=20)

    def seconds(sizes: Dims, count: int = 1000, **settings) -> float:
        config = Config(**settings)
        return estimate(stages(config, sizes), config, count)

    for more in (
        seconds(replace(dims, regions=196)),
        seconds(replace(dims, channels=2048)),
        seconds(dims, 2000),
        seconds(dims, hidden=8192),
        seconds(dims, critic_steps=10),
        seconds(dims, stage3_epochs=100.0),
    ):
        assert more > seconds(dims)
    assert seconds(replace(dims, regions=1)) < seconds(dims)


def test_networks_of_stage_three_have_the_published_shapes():
    eggn = made_eggn()
    assert isinstance(eggn.encoder, Encoder)
    assert isinstance(eggn.critic, Critic)
    shapes = {n: [tuple(p.shape) for p in m.parameters() if p.ndim == 2] for n, m in networks(eggn).items()}
    v, a, h = CHANNELS, ATTRIBUTES, 16
    assert shapes == {
        "encoder": [(h, v + a), (2 * a, h), (a, 2 * a), (a, 2 * a)],
        "generator": [(h, 2 * a), (v, h)],
        "critic": [(h, v + a), (1, h)],
        "decoder": [(h, v), (a, h)],
        "feedback": [(h, h), (h, h)],
    }


def test_the_guide_with_a_scaler_undoes_it():
    scaler = MinMaxScaler(3).fit(torch.tensor([[1.0, -2.0, 5.0], [3.0, 2.0, 5.0]]))
    raw = torch.tensor([[1.5, 0.5, 4.0]])
    torch.testing.assert_close(Guide(nn.Identity(), scaler)(scaler(raw), torch.zeros(3, 2)), raw)


# --- the classifiers inside ------------------------------------------------------------------------------------------


def test_the_local_network_scores_classes_by_the_evidence_of_attended_features(scen):
    with torch.no_grad():
        scen.embedder.centre.copy_(draw(CHANNELS, seed=6) / 9)
    regions, semantic = draw(3, REGIONS, CHANNELS, seed=3), draw(5, ATTRIBUTES, seed=4)
    h = attended(scen, regions / regions.norm(dim=2, keepdim=True) - scen.embedder.centre)
    e = torch.stack([scen.words[n] @ scen.w_beta @ h[:, n].T for n in range(ATTRIBUTES)], dim=1)  # (B, A)
    local = parts_of(scen, Guide(nn.Identity()), semantic)["local network"]
    torch.testing.assert_close(local(regions, semantic), e @ semantic.T, rtol=1e-10, atol=1e-12)
    before = local(regions, semantic)
    with torch.no_grad():
        scen.w_beta.add_(1)  # it keeps what stage 1 left
    assert torch.equal(local(regions, semantic), before)


@pytest.mark.parametrize("evidence", [True, False])
def test_the_guide_is_asked_about_the_scaled_feature_of_real_pictures(evidence):
    embedder = Embedder(ATTRIBUTES, CHANNELS, "mean", evidence=evidence)  # with evidence more stands beside the feature
    regions, known = draw(4, REGIONS, CHANNELS).float(), draw(CLASSES, ATTRIBUTES, seed=1).float()
    embedder.scaler.fit(embedder.compress(regions) * 2)
    layers = nn.Linear(CHANNELS, ATTRIBUTES if evidence else CLASSES)
    asked = GuideOnPictures(embedder, Guide(layers, evidence=evidence), known)
    unit = regions / regions.norm(dim=2, keepdim=True)
    low, spread = embedder.scaler.low, embedder.scaler.range
    given = ((unit.mean(dim=1) - low) / spread) @ layers.weight.T + layers.bias  # attention is uniform before training
    wanted = given @ known.T if evidence else given
    torch.testing.assert_close(asked(regions, known), wanted, rtol=1e-4, atol=1e-5)


def test_a_guide_by_scores_says_of_other_classes_what_its_scores_imply_of_attributes():
    embedder = Embedder(ATTRIBUTES, CHANNELS, "mean")
    regions, known = draw(4, REGIONS, CHANNELS).float(), draw(ATTRIBUTES + 3, ATTRIBUTES, seed=1).float()
    layers = nn.Linear(CHANNELS, len(known), bias=False)
    weight = draw(ATTRIBUTES, CHANNELS, seed=2).float()
    with torch.no_grad():
        layers.weight.copy_(known @ weight)  # its scores are those of the evidence W f
    asked, others = GuideOnPictures(embedder, Guide(layers), known), draw(6, ATTRIBUTES, seed=5).float()
    evidence = embedder(regions) @ weight.T
    torch.testing.assert_close(asked(regions, others), evidence @ others.T, rtol=1e-3, atol=1e-3)


# --- plain feature vectors -------------------------------------------------------------------------------------------


def plain_data():
    """The same pictures, each as its one brightest region."""
    return replace(DATA, regions=DATA.regions.max(axis=1, keepdims=True))


@pytest.mark.parametrize("scaling", ["minmax", "standard"])
def test_on_plain_vectors_the_third_stage_is_trained_alone_and_says_so(tmp_path, scaling):
    told = []
    config = replace(SMALL, scaling=scaling, stage3_steps=6)
    trained = sc_egg.fit(plain_data(), config, Session(tmp_path, told.append), 0)
    assert {line["stage"] for line in told if "stage" in line} == {"eggn"}
    assert any("only the third stage" in line.get("note", "") for line in told)
    assert list(trained.parts) == ["guide"]  # no regions, no local network
    again = build(config, plain_data().dims)
    again.load_state_dict(trained.state_dict())
    rows = plain_data().regions[DATA.rows].astype(np.float32)
    f = again.eval().embedder(torch.from_numpy(rows)).numpy()
    wanted = rows[:, 0] - (rows[:, 0].min(axis=0) if scaling == "minmax" else rows[:, 0].mean(axis=0))
    wanted /= np.ptp(rows[:, 0], axis=0) if scaling == "minmax" else rows[:, 0].std(axis=0)
    np.testing.assert_allclose(f, wanted, atol=1e-4)


def test_numbers_that_are_none_stop_plain_vectors_too(tmp_path):
    broken = replace(plain_data(), regions=np.full_like(plain_data().regions, np.nan))
    with pytest.raises(GateError, match="E-DIVERGED"):
        sc_egg.fit(broken, SMALL, Session(tmp_path, lambda _: None), 0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 40), st.integers(0, 99))
def test_a_card_draws_balanced_batches_too(sizes, batch, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    batches = BalancedBatches(labels, batch, Rng(seed))
    classes, each = min(batch, len(sizes)), max(1, batch // len(sizes))
    for found in (batches.draw_at_once(classes, each), batches.draw()):
        owners = labels[found.numpy()].reshape(classes, each)
        assert (owners == owners[:, :1]).all()
        assert len(set(owners[:, 0])) == classes
        for rows, owner in zip(found.numpy().reshape(classes, each), owners[:, 0], strict=True):
            assert len(set(rows)) == each or each > sizes[owner]


def test_every_picture_is_as_likely_on_a_card():
    batches = BalancedBatches(np.repeat([0, 1, 2], [3, 5, 4]), 6, Rng(0))
    shares = torch.cat([batches.draw_at_once(3, 2) for _ in range(3000)]).bincount(minlength=12) / 3000
    assert shares.numpy() == pytest.approx(np.repeat([2 / 3, 2 / 5, 2 / 4], [3, 5, 4]), abs=0.04)
