"""What every method promises, one test over the whole table: a method added tomorrow is tested by its line there."""

from __future__ import annotations

import itertools
import tomllib
from collections import defaultdict
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import tomli_w
import torch
from torch import nn

from support.tiny_features import ATTRIBUTES, CHANNELS, REGIONS, tiny_training_data
from support.tiny_run import as_gaussian, fill_gaussian
from zsl_runtime.errors import GateError, UsageError
from zsl_train import devices
from zsl_train.devices import current
from zsl_train.head.modules import run_means
from zsl_train.methods import METHODS, find_method
from zsl_train.methods.base import Trained, run_batched, run_rows
from zsl_train.methods.lengths import cap_epochs, estimate, names, size
from zsl_train.methods.sc_egg.scen import BalancedBatches
from zsl_train.methods.session import Rng, Session
from zsl_train.recipe import Recipe, make_recipe, method_config

VAE = {
    "latent": 4,
    "visual_encoder_hidden": 16,
    "visual_decoder_hidden": 16,
    "semantic_encoder_hidden": 16,
    "semantic_decoder_hidden": 16,
    "steps": 60,
    "batch": 20,
    "learning_rate": 1e-2,
    "latents_per_seen_class": 10,
    "synthetic_per_class": 10,
}

# Settings that make a method small and quick to learn; a method that is not listed fails here until it is.
SMALL = {
    "sc-egg": {
        "hidden": 16,
        "guide_hidden": 16,
        "stage1_steps": 20,
        "stage2_steps": 20,
        "stage3_steps": 24,
        "adapt_penalty": True,  # a number that changes while training
        "learning_rate_embedding": 3e-3,
        "learning_rate_gan": 3e-3,
        "learning_rate_decoder": 3e-3,
        "learning_rate_feedback": 3e-3,
        "synthetic_per_class": 10,
    },
    "cada-vae": VAE,
    "acmr": {**VAE, "learning_rate_gate": 1e-2, "learning_rate_classifiers": 1e-2, "gate_hidden": 6, "gate_orders": 3},
    "eszsl": {},
    "gfzsl": {},
    "sp-aen": {
        "hidden": 16,
        "batch": 16,
        "stage1_steps": 24,
        "stage2_steps": 40,
        "learning_rate": 1e-2,
        "dropout": 0.1,  # with so few channels half of them would be too many
    },
    "f-clswgan": {
        "hidden": 16,
        "classifier_steps": 20,
        "gan_steps": 24,
        "classification_weight": 1.0,
        "learning_rate_classifier": 3e-2,
        "learning_rate_gan": 6e-3,
        "synthetic_per_class": 10,
    },
    "lisgan": {
        "hidden": 16,
        "classifier_steps": 20,
        "gan_steps": 24,
        "soul_classes": 3,
        "learning_rate_classifier": 3e-2,
        "learning_rate_gan": 6e-3,
        "synthetic_per_class": 10,
    },
    "dcr-gan": {
        "hidden": 16,
        "searched_width": 3,
        "regressor_hidden": 16,
        "metric_batch": 24,
        "margin": 4.0,
        "metric_steps": 20,
        "rectify_steps": 60,
        "semantic_steps": 20,
        "searched_steps": 20,
        "gan_steps": 24,
        "learning_rate_metric": 6e-3,
        "learning_rate_regressor": 6e-3,
        "learning_rate_generator": 6e-3,
        "learning_rate_critic": 6e-3,
        "seen_semantic": 10.0,
        "synthetic_per_class": 10,
    },
    "tf-vaegan": {
        "hidden": 16,
        "gan_steps": 24,
        "adapt_penalty": True,
        "learning_rate_gan": 3e-3,
        "learning_rate_decoder": 3e-3,
        "learning_rate_feedback": 3e-3,
        "synthetic_per_class": 10,
    },
}
DATA = tiny_training_data()
# Solved in one step: nothing to learn step by step, to cut short or to scale by a rate, and perhaps no use for a seed.
CLOSED_FORM = {name for name, method in METHODS.items() if not names(method.stages(method.Config(), DATA.dims))}
ITERATED = [name for name in METHODS if name not in CLOSED_FORM]
CASES = [(name, preset) for name, method in METHODS.items() for preset in method.PRESETS]


recorded = devices.Recorded._record


class CutError(Exception):
    """What a test interrupts a training with."""


class Recorder(Session):
    """A session that keeps every loss, and which parameters that an optimiser moves ever had a gradient."""

    def __init__(self, folder, **options) -> None:
        super().__init__(folder, lambda _: None, **options)
        self.losses = defaultdict(list)
        self.steps: dict[str, int] = {}
        self.trainable: set[str] = set()
        self.moved: set[str] = set()

    def loop(self, stage, steps, state, body, trained=None) -> None:
        named = {
            id(p): f"{stage}: {part}.{name}"
            for part, module in state.items()
            if isinstance(module, nn.Module)
            for name, p in module.named_parameters()
        }
        optimisers = [part for part in state.values() if isinstance(part, torch.optim.Optimizer)]
        held = [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
        assert {id(p) for p in held} <= set(named), f"{stage} trains what it does not save"
        self.trainable |= {named[id(p)] for p in held}
        self.steps[stage] = steps

        def recorded(step):
            losses = body(step)
            self.losses[stage].append({name: float(value.detach()) for name, value in losses.items()})
            self.moved |= {named[id(p)] for p in held if p.grad is not None and p.grad.abs().sum() > 0}
            return losses

        super().loop(stage, steps, state, recorded, trained)


def small(name: str, **changes):
    return METHODS[name].Config(**{**SMALL[name], **changes})


def trained(name: str, folder, *, seed: int = 0, config=None, session=None, data=DATA) -> Trained:
    return METHODS[name].fit(data, config or small(name), session or Session(folder, lambda _: None), seed)


def headed(modules: Trained) -> Trained:
    """The modules with a head: of a method that has none of its own, the Gaussian one, solved on DATA."""
    if (modules.synthesizer, modules.rows, modules.means) != (None, None, None):
        return modules
    made = as_gaussian(modules)
    fill_gaussian(made, DATA.table, run_batched(modules.embedder, DATA.regions[DATA.rows]), DATA.labels)
    return made


def outputs(modules: Trained, semantic, *, sign: float = 1.0) -> np.ndarray:
    """What makes the head from semantic vectors (M, A): means (M, D), rows and biases (M, D + 1), or features (M, F).

    `sign` turns the noise around, where there is noise.
    """
    modules, semantic = headed(modules), np.asarray(semantic, np.float32)
    if modules.means is not None:
        return run_means(modules.means, semantic)
    if modules.rows is not None:
        return np.column_stack(run_rows(modules.rows, semantic))
    noise = sign * np.random.default_rng(1).standard_normal((len(semantic), modules.noise_width))
    return run_batched(modules.synthesizer, semantic, noise)


def same(one: Trained, other: Trained) -> bool:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module", params=METHODS)
def whole(request, tmp_path_factory) -> tuple[str, Trained, Recorder]:
    """A method, trained once without interruption, and what was seen on the way."""
    session = Recorder(tmp_path_factory.mktemp("whole"))
    return request.param, trained(request.param, None, session=session), session


# --- the table -------------------------------------------------------------------------------------------------------


def test_every_method_of_the_table_is_found_by_its_own_name():
    assert [find_method(name).NAME for name in METHODS] == list(METHODS)
    with pytest.raises(UsageError, match=f"E-METHOD: no method 'sc_egg'; known are .*{next(iter(METHODS))}"):
        find_method("sc_egg")


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_plain_documented_and_frozen(name):
    config = METHODS[name].Config()
    assert is_dataclass(config)
    assert type(config).__dataclass_params__.frozen
    for field in fields(config):
        assert type(getattr(config, field.name)) in {bool, int, float, str}, field.name
        assert f"{field.name}: " in type(config).__doc__, field.name


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_a_preset_survives_the_recipe_file_with_every_setting(name, preset):
    method = METHODS[name]
    recipe = Recipe(method=name, preset=preset)
    config = method_config(method.Config, method.PRESETS, recipe)
    text = tomli_w.dumps(recipe.resolved(config).to_dict())
    again = make_recipe(tomllib.loads(text) | {"snapshots": recipe.snapshots}, {}, {})
    assert method_config(method.Config, {preset: {}}, again) == config


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_default_the_papers_and_the_codes_settings(name):
    assert {"default", "paper", "code"} <= set(METHODS[name].PRESETS)


# --- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_untrained_modules_have_the_shapes_they_say(name, preset):
    config = METHODS[name].Config(**{**METHODS[name].PRESETS[preset], **SMALL[name]})
    check_modules(METHODS[name].build(config, DATA.dims).eval())


def check_modules(modules: Trained) -> None:
    modules = headed(modules)
    f = run_batched(modules.embedder, np.random.default_rng(0).random((3, REGIONS, CHANNELS)))
    assert f.shape == (3, modules.feature_width)
    x = f if modules.lift is None else run_batched(modules.lift, f)
    assert x.shape == (3, modules.lifted_width)
    made = outputs(modules, np.random.default_rng(2).random((5, ATTRIBUTES)))
    assert np.isfinite(f).all()
    assert np.isfinite(made).all()
    if modules.replay is not None:
        check_replay(modules)
    assert max(view.stop for view in modules.views) == modules.lifted_width
    if modules.head_rule == "fit":
        assert made.shape == (5, modules.feature_width)
        assert modules.synthetic_per_class >= 1
        assert modules.noise_width >= 1
        assert all(view.fit is not None for view in modules.views)
    else:
        assert made.shape == (5, modules.lifted_width + (modules.head_rule == "rows"))
        assert (modules.synthetic_per_class, modules.noise_width) == (0, 0)
        assert [(view.start, view.fit) for view in modules.views] == [(0, None)]
    for module in modules.modules().values():
        assert not module.training
        assert all(not p.requires_grad and p.device.type == "cpu" for p in module.parameters())


@pytest.mark.parametrize("draws", [0, 2])
@pytest.mark.parametrize("name", METHODS)
def test_the_gaussian_head_takes_the_place_of_a_method_s_own(name, draws):
    """Its features stay; what synthesizes or fits goes, but for a synthesizer inside the means; all of it is saved."""
    own = METHODS[name].build(small(name), DATA.dims).eval()
    if own.synthesizer is None and draws:
        return  # there is nothing to draw from
    modules = as_gaussian(own, draws=draws)
    again = as_gaussian(METHODS[name].build(small(name), DATA.dims).eval(), draws=draws)
    features = run_batched(own.embedder, DATA.regions[DATA.rows])
    fill_gaussian(modules, DATA.table, features, DATA.labels)
    again.load_state_dict(modules.state_dict())
    assert same(modules, again)
    assert (modules.head_rule, modules.replay, modules.replay_per_class) == ("gaussian", None, 0)
    assert any(key.startswith("means.synthesizer.") for key in modules.state_dict()) == (draws > 0)
    check_modules(modules)
    made = outputs(modules, DATA.semantic)
    np.testing.assert_array_equal(outputs(again, DATA.semantic), made)
    assert np.ptp(made, axis=0).max() > 0.1


def check_replay(modules: Trained) -> None:
    """Rows for a head come from the embedder's tensors, several of a picture, each by its own noise."""
    assert modules.replay_per_class >= 1
    own = {id(tensor) for tensor in modules.replay.state_dict(keep_vars=True).values()}
    assert own == {id(tensor) for tensor in modules.embedder.state_dict(keep_vars=True).values()}
    regions = np.random.default_rng(0).random((3, REGIONS, CHANNELS))
    noise = np.random.default_rng(1).standard_normal((3, 4, modules.noise_width))
    noise[:, 2] = noise[:, 0]
    rows = run_batched(modules.replay, regions, noise)
    assert rows.shape == (3, 4, modules.feature_width)
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows[:, 2], rows[:, 0])
    assert not np.allclose(rows[:, 1], rows[:, 0], atol=1e-4)


def test_what_is_trained_is_finished_and_looks_at_its_inputs(whole):
    _, modules, _ = whole
    check_modules(modules)
    made = outputs(modules, DATA.semantic[:5])
    assert not np.allclose(made, outputs(modules, DATA.semantic[4::-1]), atol=1e-3)
    if modules.head_rule == "fit":
        assert not np.allclose(made, outputs(modules, DATA.semantic[:5], sign=-1.0), atol=1e-4)


def test_every_stage_learns(whole):
    name, _, session = whole
    assert (set(session.steps.values()) == {1}) == (name in CLOSED_FORM)
    for stage, losses in session.losses.items() if name in ITERATED else ():
        quarter = len(losses) // 4
        fallen = {
            name: np.mean([one[name] for one in losses[-quarter:]]) / np.mean([one[name] for one in losses[:quarter]])
            for name in losses[0]
            if all(one[name] > 0 for one in losses)
        }
        assert min(fallen.values()) < 0.8, (stage, fallen)


def test_every_parameter_an_optimiser_holds_gets_a_gradient(whole):
    name, _, session = whole
    assert bool(session.trainable) == (name in ITERATED)
    assert session.trainable - session.moved == set()


def test_seen_classes_can_be_told_from_each_other_after_training(whole):
    _, modules, _ = whole
    f = run_batched(modules.embedder, DATA.regions[DATA.rows])
    means = {label: f[DATA.labels == label].mean(axis=0) for label in np.unique(DATA.labels)}
    nearest = [min(means, key=lambda label, row=row: np.linalg.norm(row - means[label])) for row in f]
    assert (np.array(nearest) == DATA.labels).mean() > 0.6  # by chance 0.2


def test_the_modules_survive_their_tensors(whole):
    name, modules, _ = whole
    torch.manual_seed(77)  # what build draws must not matter
    again = METHODS[name].build(small(name), DATA.dims)
    state = modules.state_dict()
    again.load_state_dict(state)
    again.eval()
    assert same(modules, again)
    regions = DATA.regions[DATA.rows[:4]]
    f = run_batched(modules.embedder, regions)
    np.testing.assert_array_equal(run_batched(again.embedder, regions), f)
    if modules.lift is not None:
        np.testing.assert_array_equal(run_batched(again.lift, f), run_batched(modules.lift, f))
    np.testing.assert_array_equal(*(outputs(m, DATA.semantic) for m in (modules, again)))
    key = next(iter(state))
    for wrong in (
        {k: v for k, v in state.items() if k != key},
        state | {f"{key}.more": state[key]},
        state | {"other.weight": state[key]},
        state | {key: state[key][..., :-1]},
    ):
        with pytest.raises(RuntimeError):
            again.load_state_dict(wrong)


# --- the same again --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(whole, tmp_path):
    name, modules, _ = whole
    torch.manual_seed(4711)
    np.random.seed(4711)
    assert same(modules, trained(name, tmp_path / "same"))
    if name in ITERATED:
        assert not same(modules, trained(name, tmp_path / "other", seed=1))


@pytest.mark.parametrize(
    "place", ["middle", *(pytest.param(place, marks=pytest.mark.slow) for place in ("first", "last"))]
)
def test_interrupted_in_any_stage_and_resumed_it_is_the_uninterrupted_result(whole, tmp_path, place):
    name, modules, session = whole
    for stage, steps in session.steps.items():
        at = {"first": 1, "middle": steps // 2 + 1, "last": steps}[place]

        def cut(_, here, done, total, losses, *, stage=stage, at=at) -> None:
            if (here, done) == (stage, at):
                raise CutError

        folder = tmp_path / stage
        with pytest.raises(CutError):
            trained(name, None, session=Session(folder, lambda _: None, progress=cut, save_seconds=-1))
        torch.manual_seed(at)  # another process
        seen = []
        resumed = Session(folder, lambda _: None, progress=lambda _, here, done, *rest: seen.append((here, done)))  # noqa: B023
        assert same(modules, trained(name, None, session=resumed)), stage
        wanted = itertools.dropwhile(
            lambda one: one != (stage, at),  # noqa: B023
            ((one, step) for one, total in session.steps.items() for step in range(1, total + 1)),
        )
        assert seen == list(wanted)  # earlier stages were not repeated


def test_a_snapshot_is_what_training_stopped_there_would_give(whole, tmp_path):
    name, _, _ = whole
    taken = {}

    def snapshot(share: float, modules: Trained) -> None:
        taken[share] = {key: value.clone() for key, value in modules.state_dict().items()}

    shares = (0.25, 0.5, 1.0)
    session = Session(tmp_path / "whole", lambda _: None, snapshot_at=shares, snapshot=snapshot)
    end = trained(name, None, session=session)
    assert set(taken) == set(shares)
    for share in shares:
        stopped = trained(name, None, session=Session(tmp_path / str(share), lambda _: None, stop_at=share))
        assert all(torch.equal(value, taken[share][key]) for key, value in stopped.state_dict().items()), share
    if name in ITERATED:
        assert any(not torch.equal(value, taken[0.25][key]) for key, value in end.state_dict().items())


# --- numbers that leave the earth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_features_that_are_no_numbers_stop_it(name, tmp_path):
    broken = tiny_training_data(everything=float("nan"))
    with pytest.raises(GateError) as caught:
        trained(name, tmp_path, data=broken)
    assert (caught.value.code, caught.value.exit_code) == ("E-DIVERGED", 3)
    assert "\n" not in str(caught.value)
    assert "lower the learning rate" in str(caught.value)


@pytest.mark.parametrize("name", ITERATED)
@pytest.mark.parametrize("rate", [1e4, 1e9])
def test_an_absurd_learning_rate_stops_it(name, rate, tmp_path):
    rates = [f.name for f in fields(METHODS[name].Config) if "learning_rate" in f.name and "head" not in f.name]
    assert rates
    with pytest.raises(GateError) as caught:
        trained(name, tmp_path, config=small(name, **dict.fromkeys(rates, rate)))
    assert (caught.value.code, caught.value.exit_code) == ("E-DIVERGED", 3)


# --- presets and lengths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_a_preset_trains(name, preset, tmp_path):
    method = METHODS[name]
    quick = {key: SMALL[name][key] for key in SMALL[name] if "steps" not in key and "rate" not in key}
    config = method.Config(**{**method.PRESETS[preset], **quick})
    config = cap_epochs(method.stages(config, DATA.dims), config, 2.0, len(DATA.rows))
    session = Recorder(tmp_path)
    check_modules(trained(name, None, config=config, session=session))
    assert all(1 <= steps <= 10 for steps in session.steps.values()), session.steps


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_lengths_can_be_estimated_and_shortened(name, preset):
    method = METHODS[name]
    config = method.Config(**method.PRESETS[preset])
    stages = method.stages(config, DATA.dims)
    enough = size(stages, config, 1000, 1e9)
    assert size(stages, enough, 1000, 1e9) == enough
    whole = estimate(stages, enough, 1000)
    assert 1 < whole < 1e6
    if name in CLOSED_FORM:
        assert size(stages, config, 1000, whole / 2) == config
        assert cap_epochs(stages, config, 0.5, 1000) == config
        return
    half = size(stages, config, 1000, whole / 2)
    assert estimate(stages, half, 1000) == pytest.approx(whole / 2, rel=0.02)
    assert estimate(stages, half, 1000) <= whole / 2
    capped = cap_epochs(stages, config, 0.5, 1000)
    assert estimate(stages, capped, 1000) < estimate(stages, config, 1000)
    assert cap_epochs(stages, capped, 0.5, 1000) == capped
    same_otherwise = [f.name for f in fields(config) if f.name not in names(stages)]
    assert names(stages) < {f.name for f in fields(config)}
    assert replace(half, **{key: getattr(config, key) for key in same_otherwise}) == half


# --- on a card -------------------------------------------------------------------------------------------------------


@pytest.fixture
def same_draws(monkeypatch):
    """Let a training on a card draw the numbers that one on the CPU draws."""
    for name in ("randn", "rand", "randint", "randperm"):
        monkeypatch.setattr(torch, name, _drawn_on_the_cpu(getattr(torch, name)))
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, _filled_on_the_cpu(getattr(torch.Tensor, name)))

    def on_the_cpu(rng, seed) -> None:
        rng.device, rng.generator = current(), torch.Generator().manual_seed(seed)

    monkeypatch.setattr(Rng, "__init__", on_the_cpu)
    monkeypatch.setattr(BalancedBatches, "draw_at_once", BalancedBatches.draw_in_turn)


def _drawn_on_the_cpu(draw):
    return lambda *shape, generator=None, device=None: draw(*shape, generator=generator, device="cpu").to(device)


def _filled_on_the_cpu(fill):
    def filled(tensor, *arguments, generator=None, **named):
        return tensor.copy_(fill(torch.empty(tensor.shape, device="cpu"), *arguments, generator=generator, **named))

    return filled


@pytest.mark.gpu
@pytest.mark.parametrize("name", ITERATED)
def test_a_card_trains_what_the_cpu_trains(name, tmp_path, monkeypatch, same_draws):
    """The same draws give the same losses and weights to rounding, which grows from step to step."""
    if not torch.cuda.is_available():
        pytest.skip("no card that torch can use")
    monkeypatch.setattr(devices.Recorded, "__call__", lambda step, number: step._body(number))  # draws are the CPU's
    here, there = Recorder(tmp_path / "here"), Recorder(tmp_path / "there")
    on_cpu = trained(name, None, session=here)
    with torch.device("cuda"):
        on_card = trained(name, None, session=there).cpu()
    nearly_the_same((on_card, there.losses), (on_cpu, here.losses))


def nearly_the_same(found, wanted) -> None:
    """Rounding, and sums in another order, grow from step to step; most of all where Adam's first steps are signs."""
    for stage, losses in wanted[1].items():
        for step, (one, other) in enumerate(zip(losses[:5], found[1][stage][:5], strict=True)):
            assert other == pytest.approx(one, rel=0.03, abs=0.01), (stage, step)
    for key, value in wanted[0].state_dict().items():
        assert torch.allclose(found[0].state_dict()[key], value, rtol=0.1, atol=0.05), key


@pytest.mark.gpu
@pytest.mark.parametrize("name", ITERATED)
def test_recorded_steps_are_the_steps(name, tmp_path, monkeypatch):
    """A CUDA graph of a step, played, against the step itself: the same draws, the same losses, the same weights."""
    if not torch.cuda.is_available():
        pytest.skip("no card that torch can use")
    seen = []
    monkeypatch.setattr(devices.Recorded, "_record", lambda *arguments: seen.append(1) or recorded(*arguments))
    found, few = {}, {"schedule_epochs": 4.0} if "schedule_epochs" in METHODS[name].Config.__dataclass_fields__ else {}
    for kind in ("recorded", "plain"):
        session = Recorder(tmp_path / kind)
        with torch.device("cuda"):
            found[kind] = trained(name, None, config=small(name, **few), session=session).cpu(), session.losses
        monkeypatch.setattr(devices.Recorded, "__call__", lambda step, number: step._body(number))
    assert seen
    assert all(len(losses) > devices.WARM for losses in found["plain"][1].values())
    nearly_the_same(found["recorded"], found["plain"])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ITERATED)
def test_a_training_on_a_card_resumes(name, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no card that torch can use")
    with torch.device("cuda"):
        first = trained(name, tmp_path).cpu()
        again = trained(name, tmp_path).cpu()  # every stage is there: nothing is trained again
    assert same(first, again)
    assert all(tensor.device.type == "cpu" for tensor in first.state_dict().values())
