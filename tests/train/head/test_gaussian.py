"""The closed form against scikit-learn, SciPy and plain loops; the choice on folds; what ships scores alike."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.kernel_ridge import KernelRidge
from torch import nn

from zsl_runtime.errors import UsageError
from zsl_runtime.head.distance import Distances
from zsl_runtime.head.gaussian import ClassMeans, evidence_of, gaussian_head
from zsl_train.head import gaussian
from zsl_train.head.gaussian import (
    ALIKE,
    DRAWS,
    KAPPAS,
    RATIO_BOUNDS,
    RIDGES,
    SHRINKAGES,
    WIDTHS,
    Case,
    Errors,
    HeadChoice,
    Settings,
    Solution,
    Spectrum,
    check_classes,
    choose_settings,
    finish,
    held_out_distances,
    logits,
    make_case,
    measure_errors,
    noise_banks,
    solve,
)
from zsl_train.head.modules import run_means
from zsl_train.means import Means, Shape
from zsl_train.methods.base import Trained, run_batched
from zsl_train.scoring.evaluate import score
from zsl_train.scoring.folds import make_folds

SETTINGS = Settings(shrinkage=0.3, width=0.7, ridge=0.05, kappa=0.0)
ERRORS, KNOWN = Errors(1.7, 0.2), Errors()


class Problem:
    """Classes whose features follow attributes, with correlated pictures, unequal counts and a mean far from 0.

    Args:
        seed: of everything drawn.
        width: F.
        seen: S, the first of the classes.
        unseen: how many follow.
        attributes: A.
        equal: pictures a class; 0 draws 1 to 7.

    """

    def __init__(
        self, seed: int = 0, *, width: int = 9, seen: int = 6, unseen: int = 3, attributes: int = 4, equal: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        classes = seen + unseen
        self.semantic = rng.random((classes, attributes)).astype(np.float32)
        counts = np.full(seen, equal) if equal else rng.integers(1, 8, seen)
        counts[0] = max(counts[0], 3)
        self.labels = rng.permutation(np.repeat(np.arange(seen), counts))
        self.mixing = rng.standard_normal((attributes, width))
        self.spread = rng.standard_normal((width, width)) * np.logspace(-1, 0.5, width)
        self.features = self.draw(rng, self.labels)
        self.held_labels = np.repeat(np.arange(classes), 4)
        self.held = self.draw(rng, self.held_labels)
        self.seen = np.arange(classes) < seen

    def draw(self, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal((len(labels), len(self.spread))) @ self.spread
        return (5 * self.semantic[labels] @ self.mixing + noise + 20).astype(np.float32)

    def case(self, generated: dict | None = None) -> Case:
        return make_case(self.features, self.labels, self.semantic, generated)

    def spectrum(self, generated: dict | None = None) -> Spectrum:
        return Spectrum(self.case(generated), self.held, self.held_labels)


class Slow:
    """The model of a Problem in feature coordinates, by loops and general matrices: nothing is shared with the code.

    Attributes:
        within: (F, F) W, shrunk.
        errors: (F, F) E.
        prior: (C, F) what the attributes tell.
        means: (C, F) with the training pictures as evidence.

    """

    def __init__(
        self, problem: Problem, chosen: Settings, errors: Errors = KNOWN, generated: np.ndarray | None = None
    ) -> None:
        x, y = problem.features.astype(np.float64), problem.labels
        classes = np.unique(y)
        width = x.shape[1]
        means = np.array([x[y == one].mean(axis=0) for one in classes])
        scatter = sum(
            np.outer(row - means[np.searchsorted(classes, one)], row - means[np.searchsorted(classes, one)])
            for row, one in zip(x, y, strict=True)
        )
        within = scatter / (len(x) - len(classes))
        self.within = (1 - chosen.shrinkage) * within + chosen.shrinkage * np.trace(within) / width * np.eye(width)
        a = problem.semantic.astype(np.float64)
        pairs = [((a[i] - a[j]) ** 2).sum() for i in classes for j in classes if i != j]
        self.sharpness = 1 / (2 * chosen.width**2 * np.mean(pairs))
        self.centre = means.mean(axis=0)
        self.ridge = chosen.ridge
        regression = self.fit(a[classes], means)
        self.prior = regression.predict(a) + self.centre
        if generated is not None:
            self.prior = (1 - chosen.share) * self.prior + chosen.share * generated
        left_out = []
        for place, one in enumerate(classes):
            others = np.delete(np.arange(len(classes)), place)
            left_out.append(
                self.fit(a[classes[others]], means[others]).predict(a[[one]])[0] + self.centre - means[place]
            )
        self.left_out = np.array(left_out)
        self.errors = sum(np.outer(row, row) for row in self.left_out) / len(classes)
        uncertain = errors.ratio * self.errors + errors.floor * self.within
        self.means = self.prior.copy()
        for one, mean in zip(classes, means, strict=True):
            gain = uncertain @ np.linalg.inv(uncertain + self.within / (y == one).sum())
            self.means[one] += gain @ (mean - self.prior[one])
        self.covariance = self.within + chosen.kappa * uncertain

    def fit(self, a: np.ndarray, means: np.ndarray) -> KernelRidge:
        return KernelRidge(alpha=self.ridge, kernel="rbf", gamma=self.sharpness).fit(a, means - self.centre)

    def scores(self, held: np.ndarray) -> np.ndarray:
        return np.column_stack([multivariate_normal(m, self.covariance).logpdf(held.astype(float)) for m in self.means])


def told_apart(scores: np.ndarray) -> np.ndarray:
    """Scores less the first class's: what tells classes apart; a picture's own constant says nothing."""
    return scores - scores[:, :1]


def scored(problem: Problem, chosen: Settings, errors: Errors, generated: dict | None = None) -> np.ndarray:
    spectrum = problem.spectrum(generated)
    return logits(spectrum, chosen, solve(spectrum, chosen), errors)


# --- the closed form -------------------------------------------------------------------------------------------------

SIZES = [{"width": 9, "seen": 6}, {"width": 5, "seen": 12}, {"width": 40, "seen": 7}, {"width": 3, "seen": 3}]


@pytest.mark.parametrize("errors", [ERRORS, Errors(0.6, 0.0), Errors()], ids=str)
@pytest.mark.parametrize("kappa", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_scores_are_log_densities_of_a_normal_distribution(sizes, kappa, errors):
    """With kappa the mean's own uncertainty is added to the spread, kappa times."""
    problem, chosen = Problem(**sizes), replace(SETTINGS, kappa=kappa)
    wanted = told_apart(Slow(problem, chosen, errors).scores(problem.held))
    np.testing.assert_allclose(told_apart(scored(problem, chosen, errors)), wanted, rtol=1e-7, atol=1e-7)
    assert np.ptp(wanted) > 0.5


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("errors", [ERRORS, Errors(0.6, 0.0)], ids=str)
def test_means_may_be_mixed_with_generated_ones(share, errors):
    problem = Problem()
    made = np.random.default_rng(5).normal(20, 3, (9, 9)).astype(np.float32)
    chosen = replace(SETTINGS, share=share, draws=8, kappa=0.5)
    wanted = told_apart(Slow(problem, chosen, errors, made).scores(problem.held))
    got = scored(problem, chosen, errors, {1: made + 1, 8: made})
    np.testing.assert_allclose(told_apart(got), wanted, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("shrinkage", [0.05, 0.5, 1.0])
@pytest.mark.parametrize(("width", "seen"), [(9, 6), (4, 10)])
def test_where_attributes_say_nothing_it_is_linear_discriminant_analysis(shrinkage, width, seen):
    """With an uncertainty beyond all bounds a class's mean is that of its pictures."""
    problem = Problem(width=width, seen=seen, unseen=0, equal=5)
    lda = LinearDiscriminantAnalysis("lsqr", shrinkage=shrinkage, priors=np.full(seen, 1 / seen))
    lda.fit(problem.features.astype(np.float64), problem.labels)
    free = (len(problem.labels) - seen) / len(problem.labels)  # scikit-learn divides by n, we by n - S
    wanted = free * lda.decision_function(problem.held.astype(np.float64))
    got = scored(problem, replace(SETTINGS, shrinkage=shrinkage), Errors(1.0, 1e10))
    np.testing.assert_allclose(told_apart(got), told_apart(wanted), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ridge", [0.003, 0.3])
@pytest.mark.parametrize("width", [0.5, 2.0])
def test_means_are_those_of_kernel_ridge_regression(width, ridge):
    problem, chosen = Problem(), replace(SETTINGS, width=width, ridge=ridge)
    spectrum = problem.spectrum()
    white = spectrum.white(chosen.shrinkage)
    got = (solve(spectrum, chosen).means @ white.basis.T / white.scale) @ spectrum.vectors.T + spectrum.centre
    np.testing.assert_allclose(got, Slow(problem, chosen).prior, rtol=1e-9)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_errors_are_those_of_fitting_again_without_each_class(sizes):
    problem = Problem(**sizes)
    spectrum, slow = problem.spectrum(), Slow(problem, SETTINGS)
    found = solve(spectrum, SETTINGS)
    white = spectrum.white(SETTINGS.shrinkage)
    back = spectrum.vectors @ ((1 / white.scale)[:, None] * (white.basis @ found.directions))
    np.testing.assert_allclose(back @ np.diag(found.variances) @ back.T, slow.errors, rtol=1e-8, atol=1e-9)
    assert np.trace(slow.errors) > 1


# --- what ships ------------------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """Semantic vectors and noise -> features near those that `mixing` makes."""

    def __init__(self, mixing: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mixing", torch.from_numpy(mixing).float())

    def forward(self, semantic: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return 5 * semantic @ self.mixing + 20 + noise @ self.mixing[: noise.shape[1]].tanh()


def method_of(problem: Problem) -> tuple[Trained, dict[int, np.ndarray], dict[int, np.ndarray]]:
    """A method that looks at features as they are; noise of its means, and what is generated with it."""
    width = problem.features.shape[1]
    trained = Trained(nn.Identity(), None, Generator(problem.mixing), 3, width, width, (), 1)
    noise = noise_banks(3, 7)
    made = {
        count: np.mean(
            [run_batched(trained.synthesizer, problem.semantic, np.tile(one, (len(problem.semantic), 1))) for one in z],
            axis=0,
        )
        for count, z in noise.items()
    }
    return trained, noise, made


SHIPPED = [
    (share, errors, sizes) for share in (0.0, 0.5, 1.0) for errors in (ERRORS, Errors(0.6, 0.0)) for sizes in SIZES[:3]
]


@pytest.mark.parametrize(("share", "errors", "sizes"), SHIPPED, ids=str)
def test_the_head_that_ships_gives_the_scores_that_the_folds_compared(share, errors, sizes):
    """In float32, through its lift, its means and its rows; fewest columns where means cannot be off elsewhere."""
    problem = Problem(**sizes)
    trained, noise, made = method_of(problem)
    chosen = replace(SETTINGS, kappa=1.0, share=share, draws=DRAWS[-1] if share else 0)
    spectrum = problem.spectrum(made)
    shipped = finish(trained, spectrum, HeadChoice(chosen, errors), noise)
    whole = share > 0 or errors.floor > 0
    width = sizes["width"] if whole else min(sizes["width"], sizes["seen"])
    assert shipped.lifted_width == shipped.lift.out_features == len(shipped.gaussian.variance) == width
    assert (shipped.means.synthesizer is None) == (share == 0)
    assert shipped.synthesizer is None
    assert not any(parameter.requires_grad for parameter in shipped.means.parameters())
    means = ClassMeans.without_photographs(run_means(shipped.means, problem.semantic))
    means = means.taught(evidence_of(run_batched(shipped.lift, problem.features), problem.labels))
    head = gaussian_head(means, shipped.gaussian, shipped.views[0])
    x = run_batched(shipped.lift, problem.held)
    got = told_apart(x.astype(np.float64) @ head.weights[0].T + head.biases[0])
    wanted = told_apart(logits(spectrum, chosen, solve(spectrum, chosen), errors))
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(("share", "errors", "sizes"), SHIPPED, ids=str)
def test_held_out_pictures_are_as_far_as_they_would_be_from_what_a_fold_ships(monkeypatch, share, errors, sizes):
    """Through its lift, its means, its rows and the function that runs on site, fold by fold."""
    problems = [Problem(seed, **sizes) for seed in (0, 1)]
    chosen = replace(SETTINGS, kappa=1.0, share=share, draws=DRAWS[-1] if share else 0)
    monkeypatch.setattr(gaussian, "measure_errors", lambda *_: errors)  # so that all folds have the same ones
    spectra, wanted = [], []
    for problem in problems:
        trained, noise, made = method_of(problem)
        spectra.append(problem.spectrum(made))
        shipped = finish(trained, spectra[-1], HeadChoice(chosen, errors), noise)
        means = ClassMeans.without_photographs(run_means(shipped.means, problem.semantic))
        means = means.taught(evidence_of(run_batched(shipped.lift, problem.features), problem.labels))
        measure = Distances(gaussian_head(means, shipped.gaussian, shipped.views[0]), shipped.gaussian)
        wanted.append(measure(run_batched(shipped.lift, problem.held)).distances)
    got = held_out_distances(spectra, HeadChoice(chosen, errors))
    np.testing.assert_allclose(got, np.concatenate(wanted), rtol=2e-3)
    assert got.std() > 0.05


def test_without_folds_no_picture_was_held_out():
    assert held_out_distances([], HeadChoice()).shape == (0,)


@pytest.mark.parametrize("errors", [ERRORS, Errors(0.6, 0.0)], ids=str)
@pytest.mark.parametrize("sizes", SIZES[:3], ids=str)
def test_coordinates_are_canonical(sizes, errors):
    """V' W V = I and V' E V = diag(d), with V the weights of the shipped lift; all means lie around 0."""
    problem = Problem(**sizes)
    trained, noise, _ = method_of(problem)
    shipped = finish(trained, problem.spectrum(), HeadChoice(SETTINGS, errors), noise)
    slow = Slow(problem, SETTINGS)
    v = shipped.lift.weight.double().numpy().T
    np.testing.assert_allclose(v.T @ slow.within @ v, np.eye(v.shape[1]), atol=1e-6)
    spread = errors.ratio * v.T @ slow.errors @ v + errors.floor * v.T @ slow.within @ v
    np.testing.assert_allclose(spread, np.diag(shipped.gaussian.variance), atol=1e-6 * max(spread.max(), 1))
    assert shipped.gaussian.variance.max() > 0.1
    np.testing.assert_allclose(run_batched(shipped.lift, slow.centre[None].astype(np.float32)), 0, atol=1e-3)
    np.testing.assert_allclose(shipped.gaussian.scale, 1.0)  # kappa is 0
    half = finish(trained, problem.spectrum(), HeadChoice(replace(SETTINGS, kappa=2.0), errors), noise)
    np.testing.assert_allclose(half.gaussian.scale, 1 / (1 + 2 * shipped.gaussian.variance))


@pytest.mark.parametrize("draws", [0, 1, 4])
def test_the_means_module_is_kernel_regression_and_the_mean_of_what_is_generated(draws):
    rng = np.random.default_rng(3)
    network = Generator(rng.standard_normal((4, 6))) if draws else None
    module = Means(Shape(5, 3, draws), 4, 6, network, 2)
    values = {"anchors": rng.random((5, 4)), "coefficients": rng.standard_normal((5, 3)), "sharpness": 1.3}
    if draws:
        values |= {"share": 0.3, "noise": rng.standard_normal((draws, 2))}
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(torch.as_tensor(value))
    semantic = rng.random((7, 4)).astype(np.float32)
    wanted = np.zeros((7, 3))
    for row, a in enumerate(semantic.astype(np.float64)):
        for anchor, one in zip(values["anchors"], values["coefficients"], strict=True):
            wanted[row] += np.exp(-1.3 * ((a - anchor) ** 2).sum()) * one
    if draws:
        mixing = network.mixing.double().numpy()
        made = np.mean([5 * semantic @ mixing + 20 + np.tanh(mixing[:2]).T @ z for z in values["noise"]], axis=0)
        weight, bias = (p.detach().double().numpy() for p in module.canonical.parameters())
        wanted = 0.7 * wanted + 0.3 * (made @ weight.T + bias)
    got = run_means(module.eval(), semantic)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_single_draw_is_no_noise_and_banks_are_seeded():
    banks = noise_banks(5, 3)
    assert {count: bank.shape for count, bank in banks.items()} == {1: (1, 5), 8: (8, 5)}
    assert not banks[1].any()
    np.testing.assert_array_equal(banks[8], noise_banks(5, 3)[8])
    assert not np.array_equal(banks[8], noise_banks(5, 4)[8])


def test_a_case_survives_its_arrays():
    case = Problem().case({1: np.ones((9, 9), np.float32), 8: np.zeros((9, 9), np.float32)})
    again = Case.from_arrays(case.to_arrays())
    assert again.generated.keys() == case.generated.keys()
    assert all(np.array_equal(again.generated[k], case.generated[k]) for k in case.generated)
    for name in ("classes", "counts", "means", "within", "semantic"):
        np.testing.assert_array_equal(getattr(again, name), getattr(case, name))


# --- how far means are off -------------------------------------------------------------------------------------------


def scattered(*, variance: float, width: int, seen: int, left_out: int, pictures: int):
    """Means that attributes say nothing about, N(0, variance) in each coordinate; pictures N(mean, 1)."""
    rng = np.random.default_rng(2)
    semantic = (10.0 * np.eye(seen + left_out)).astype(np.float32)
    means = np.sqrt(variance) * rng.standard_normal((seen + left_out, width))
    labels = np.repeat(np.arange(seen), 40)
    held_labels = np.repeat(np.arange(seen, seen + left_out), pictures)
    features, held = (
        (means[of] + rng.standard_normal((len(of), width))).astype(np.float32) for of in (labels, held_labels)
    )
    return Spectrum(make_case(features, labels, semantic), held, held_labels)


@pytest.mark.parametrize("pictures", [2, 12])
@pytest.mark.parametrize("variance", [0.25, 1.0])
def test_errors_of_means_are_measured_and_the_chance_of_few_pictures_taken_off(variance, pictures):
    """In the directions of E and across them; two pictures alone would add 1/2 to every variance."""
    spectrum = scattered(variance=variance, width=40, seen=15, left_out=400, pictures=pictures)
    chosen = Settings(shrinkage=1.0, width=0.5, ridge=1.0)
    solution = solve(spectrum, chosen)
    found = measure_errors(spectrum, chosen, solution)
    axes = solution.directions.shape[1]
    assert found.floor == pytest.approx(variance, rel=0.1)
    assert found.ratio * solution.variances.sum() == pytest.approx(axes * variance, rel=0.15)


def test_where_means_can_be_off_in_known_directions_only_there_is_no_floor():
    spectrum = scattered(variance=0.5, width=8, seen=30, left_out=120, pictures=3)
    chosen = Settings(shrinkage=1.0, width=0.5, ridge=1.0)
    solution = solve(spectrum, chosen)
    found = measure_errors(spectrum, chosen, solution)
    assert found.floor == 0.0
    assert found.ratio * solution.variances.sum() == pytest.approx(8 * 0.5, rel=0.15)


def test_left_out_classes_of_a_single_picture_say_nothing_of_the_errors():
    """A mean and the chance of its only picture cannot be told apart: it would count as an error."""
    spectrum = scattered(variance=0.25, width=40, seen=15, left_out=30, pictures=3)
    chosen = Settings(shrinkage=1.0, width=0.5, ridge=1.0)
    wanted = measure_errors(spectrum, chosen, solve(spectrum, chosen))
    problem = Problem()
    labels = np.repeat(np.arange(6, 9), [1, 4, 1])
    held = problem.held[: len(labels)]
    mixed, pairs = Spectrum(problem.case(), held, labels), Spectrum(problem.case(), held[1:5], labels[1:5])
    single = Spectrum(problem.case(), held[:1], labels[:1])
    found = [measure_errors(one, SETTINGS, solve(one, SETTINGS)) for one in (mixed, pairs, single)]
    assert found[0] == found[1]
    assert found[2] is None
    assert wanted.floor == pytest.approx(0.25, rel=0.3)


def test_a_ratio_that_cannot_be_is_cut_and_nothing_is_measured_on_nothing():
    spectrum = scattered(variance=1.0, width=8, seen=30, left_out=10, pictures=4)
    solution = solve(spectrum, SETTINGS)
    tiny = replace(solution, variances=1e-6 * solution.variances)
    huge = replace(solution, variances=1e6 * solution.variances)
    assert measure_errors(spectrum, SETTINGS, tiny).ratio == RATIO_BOUNDS[1]
    assert measure_errors(spectrum, SETTINGS, huge).ratio == RATIO_BOUNDS[0]
    problem = Problem()
    known = problem.held_labels < 6
    alone = Spectrum(problem.case(), problem.held[known], problem.held_labels[known])
    assert measure_errors(alone, SETTINGS, solve(alone, SETTINGS)) is None
    assert Errors.mean([Errors(1.0, 0.5), Errors(3.0, 0.0)]) == Errors(2.0, 0.25)


# --- the choice on folds ---------------------------------------------------------------------------------------------


def quality_is(monkeypatch, quality) -> list[Settings]:
    """What the folds say of settings is `quality`(settings), None for not known; returns those that were asked for."""
    asked = []

    def validated(_trials, chosen: Settings, _among) -> HeadChoice:
        asked.append(chosen)
        return HeadChoice(chosen, Errors(2.0, 0.1), 0.3, 1.0, quality(chosen))

    monkeypatch.setattr(gaussian.Trials, "validated", validated)
    monkeypatch.setattr(gaussian, "_scores", lambda chosen, folds: ([np.zeros((36, 9))] * len(folds), []))
    return asked


def one_fold(generated: dict | None = None):
    problem = Problem()
    return [(problem.spectrum(generated), problem.held_labels, problem.seen)]


MADE = {1: np.zeros((9, 9), np.float32), 8: np.ones((9, 9), np.float32)}


@pytest.mark.parametrize("generated", [None, MADE], ids=["regression", "generator"])
def test_of_settings_that_are_alike_the_first_are_taken(monkeypatch, generated):
    """So the generator has no part where it does not help."""
    rng = np.random.default_rng(0)
    quality_is(monkeypatch, lambda chosen: 50 + 0.99 * ALIKE * rng.random())
    assert choose_settings(one_fold(generated)).settings == Settings()


def scored_by_fold(*by_fold: float) -> HeadChoice:
    return HeadChoice(validation_H=float(np.mean(by_fold)), by_fold=by_fold)


@pytest.mark.parametrize(
    ("one", "best", "alike"),
    [
        ((50.0, 60.0, 70.0), (52.0, 62.0, 72.0), False),  # worse everywhere by as much
        ((50.0, 60.0, 70.0), (50.2, 60.2, 70.2), True),  # less than ALIKE
        ((50.0, 60.0, 70.0), (46.0, 64.0, 76.0), True),  # by 2, with a standard error of 3.06
        ((50.0, 60.0, 70.0), (51.0, 62.0, 76.0), False),  # by 3, with a standard error of 1.53
        ((50.0,), (50.2,), True),
        ((50.0,), (51.0,), False),
    ],
)
def test_what_is_worse_by_no_more_than_a_standard_error_over_the_folds_is_alike(one, best, alike):
    assert gaussian._alike(scored_by_fold(*one), scored_by_fold(*best)) is alike
    assert gaussian._alike(scored_by_fold(*best), scored_by_fold(*best))


def test_h_of_every_fold_is_that_at_the_gamma_they_chose_together():
    folds = folded(Problem(seen=12, unseen=4, equal=8), count=3)
    found = gaussian.Trials(folds).validated(SETTINGS, range(3))
    assert len(found.by_fold) == 3
    assert np.mean(found.by_fold) == pytest.approx(found.validation_H)
    scores, _ = gaussian._scores(SETTINGS, folds)
    for z, (_, labels, seen), h in zip(scores, folds, found.by_fold, strict=True):
        assert score(z, labels, seen, found.gamma, 1.0)["H"] == pytest.approx(h)


BEST = Settings(shrinkage=0.7, width=2.0, ridge=0.3, kappa=4.0, share=0.25, draws=1)


@pytest.mark.parametrize("name", ["shrinkage", "width", "ridge", "kappa", "share"])
def test_a_setting_that_is_clearly_better_is_found(monkeypatch, name):
    asked = quality_is(monkeypatch, lambda chosen: 60.0 if getattr(chosen, name) == getattr(BEST, name) else 55.0)
    found = choose_settings(one_fold(MADE))
    assert getattr(found.settings, name) == getattr(BEST, name)
    assert found.validation_H == 60.0
    assert len(asked) == len(set(asked))  # nothing is tried twice


def test_settings_that_only_help_together_are_found_when_they_belong_together(monkeypatch):
    def quality(chosen: Settings) -> float:
        kernel = 5.0 * (chosen.width == 0.5 and chosen.ridge == 0.003)
        return 50 + kernel + 5.0 * (chosen.share == 1.0 and chosen.draws == 1)

    quality_is(monkeypatch, quality)
    found = choose_settings(one_fold(MADE)).settings
    assert (found.width, found.ridge, found.share, found.draws) == (0.5, 0.003, 1.0, 1)


def test_no_draws_are_told_where_the_generator_has_no_part(monkeypatch):
    asked = quality_is(monkeypatch, lambda chosen: 60.0 if chosen.share == 0 else 50.0)
    assert choose_settings(one_fold(MADE)).settings == Settings(share=0.0, draws=0)
    assert all((one.draws == 0) == (one.share == 0) for one in asked)
    asked.clear()
    choose_settings(one_fold())
    assert {(one.share, one.draws) for one in asked} == {(0.0, 0)}
    assert {one.shrinkage for one in asked} == set(SHRINKAGES)
    assert {one.kappa for one in asked} == set(KAPPAS)
    assert {(one.width, one.ridge) for one in asked} == {(w, r) for w in WIDTHS for r in RIDGES}


def test_without_folds_or_pictures_of_both_kinds_it_is_the_defaults():
    assert choose_settings([]) == HeadChoice()
    problem = Problem()
    known = problem.held_labels < 6
    spectrum = Spectrum(problem.case(), problem.held[known], problem.held_labels[known])
    assert choose_settings([(spectrum, problem.held_labels[known], problem.seen)]) == HeadChoice()
    plain = HeadChoice(replace(BEST), Errors(2.0, 0.25)).to_dict()
    assert plain == {
        "shrinkage": 0.7,
        "width": 2.0,
        "ridge": 0.3,
        "kappa": 4.0,
        "share": 0.25,
        "draws": 1,
        "error_ratio": 2.0,
        "error_floor": 0.25,
    }


@pytest.mark.parametrize("count", [1, 3])
def test_a_fold_is_scored_with_the_errors_of_the_others(monkeypatch, count):
    """Its own were measured on the pictures it scores; a single fold has no others."""
    folds = one_fold() * count
    measured = iter([Errors(1.0, 0.0), Errors(2.0, 0.0), Errors(4.0, 0.0)])
    used: list[Errors] = []

    def scores(spectrum: Spectrum, chosen: Settings, solution: Solution, errors: Errors) -> np.ndarray:
        used.append(errors)
        return np.zeros((len(spectrum.held), 9))

    monkeypatch.setattr(gaussian, "measure_errors", lambda *_: next(measured))
    monkeypatch.setattr(gaussian, "logits", scores)
    _, errors = gaussian._scores(SETTINGS, folds)
    assert [one.ratio for one in used] == ([1.0] if count == 1 else [3.0, 2.5, 1.5])
    assert errors == [Errors(1.0), Errors(2.0), Errors(4.0)][:count]


def folded(problem: Problem, generated: dict | None = None, count: int = 2):
    """Folds of the problem's own training pictures."""
    folds = make_folds(np.arange(len(problem.labels)), problem.labels, problem.seen, count=count, seed=0)
    return [
        (
            Spectrum(
                make_case(problem.features[fold.train], problem.labels[fold.train], problem.semantic, generated),
                problem.features[fold.held_out],
                problem.labels[fold.held_out],
            ),
            problem.labels[fold.held_out],
            fold.seen,
        )
        for fold in folds
    ]


def test_a_fold_is_scored_with_what_the_others_choose_and_has_no_part_in_that(monkeypatch):
    problem = Problem(seen=12, unseen=4, equal=8)
    folds = folded(problem, count=3)
    held = choose_settings(folds, cross=True).held
    assert choose_settings(folds).held == ()
    for place, (spectrum, labels, seen) in enumerate(folds):
        trials = gaussian.Trials(folds)
        chosen = trials.choose([k for k in range(3) if k != place])
        measured = [measure_errors(one, chosen.settings, solve(one, chosen.settings)) for one, _, _ in folds]
        others = Errors.mean([found for k, found in enumerate(measured) if k != place])
        z = logits(spectrum, chosen.settings, solve(spectrum, chosen.settings), others)
        assert held[place].others == chosen.validation_H
        assert held[place].own == pytest.approx(score(z, labels, seen, chosen.gamma, 1.0)["H"])
    # Whatever its pictures are called: with errors that nobody measures, nothing of it is left in the choice.
    monkeypatch.setattr(gaussian, "measure_errors", lambda *_: None)
    before = gaussian.Trials(folds).held(0)
    wrong = (folds[0][0], np.random.default_rng(0).permutation(folds[0][1]), folds[0][2])
    after = gaussian.Trials([wrong, *folds[1:]]).held(0)
    assert after.others == before.others
    assert after.own != before.own


def test_a_generator_that_knows_every_mean_is_preferred_and_one_that_knows_none_is_not():
    problem = Problem(seen=12, unseen=4, attributes=12, equal=8)
    problem.features += np.random.default_rng(1).normal(0, 6, problem.features.shape).astype(np.float32)
    true = (5 * problem.semantic @ problem.mixing + 20).astype(np.float32)
    noise = np.random.default_rng(0).normal(20, 5, true.shape).astype(np.float32)
    good = choose_settings(folded(problem, {1: true, 8: true}))
    bad = choose_settings(folded(problem, {1: noise, 8: noise}))
    assert good.settings.share >= 0.5
    assert bad.settings.share == 0.0
    assert good.validation_H > bad.validation_H
    again = choose_settings(folded(problem, {1: true, 8: true}))
    assert again == good
    assert good.temperature > 0


# --- properties ------------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**16)


@given(seeds)
@settings(max_examples=15)
def test_the_order_of_training_pictures_does_not_matter(seed):
    problem, other = Problem(seed), Problem(seed)
    order = np.random.default_rng(seed).permutation(len(problem.labels))
    other.features, other.labels = problem.features[order], problem.labels[order]
    one, two = (scored(p, SETTINGS, ERRORS) for p in (problem, other))
    np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-8)


@given(seeds, st.floats(0.1, 10))
@settings(max_examples=15)
def test_turning_moving_and_scaling_all_features_changes_no_score(seed, factor):
    """The shrinkage is towards a sphere, and errors are counted in spreads."""
    problem, other = Problem(seed), Problem(seed)
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((9, 9)))
    move = 3 * rng.standard_normal(9)
    # In float64: rounding to float32 would be a change of its own
    problem.features, problem.held = problem.features.astype(np.float64), problem.held.astype(np.float64)
    other.features, other.held = (factor * x @ turn + move for x in (problem.features, problem.held))
    one, two = (told_apart(scored(p, replace(SETTINGS, kappa=1.0), ERRORS)) for p in (problem, other))
    np.testing.assert_allclose(one, two, rtol=1e-7, atol=1e-6)


@given(seeds)
@settings(max_examples=15)
def test_classes_in_another_order_have_the_same_scores(seed):
    problem, other = Problem(seed), Problem(seed)
    order = np.random.default_rng(seed).permutation(len(problem.semantic))
    place = np.argsort(order)  # class -> its new row
    other.semantic = problem.semantic[order]
    other.labels, other.held_labels = place[problem.labels], place[problem.held_labels]
    one, two = (scored(p, SETTINGS, ERRORS) for p in (problem, other))
    np.testing.assert_allclose(one[:, order], two, rtol=1e-9, atol=1e-8)


@given(seeds)
@settings(max_examples=10)
def test_newcomers_change_no_score_of_the_others(seed):
    problem = Problem(seed, unseen=5)
    fewer = Problem(seed, unseen=5)
    fewer.semantic = problem.semantic[:8]
    kept = problem.held_labels < 8
    fewer.held, fewer.held_labels = problem.held[kept], problem.held_labels[kept]
    one, two = (scored(p, SETTINGS, ERRORS) for p in (problem, fewer))
    np.testing.assert_allclose(one[kept, :8], two, rtol=1e-9, atol=1e-8)


# --- data that is odd or bad -----------------------------------------------------------------------------------------


def refused(code: str, features, labels, semantic) -> str:
    """The one line with which these training pictures are refused."""
    with pytest.raises(UsageError) as caught:
        make_case(np.asarray(features, np.float32), np.asarray(labels), np.asarray(semantic, np.float32))
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
    assert "\n" not in str(caught.value)
    return caught.value.message


VARIED = np.eye(4)


def test_a_single_class_is_refused():
    with pytest.raises(UsageError, match=r"E-GAUSSIAN-CLASSES: training pictures of 1 class; .* mark more classes"):
        check_classes(np.array([2, 2, 2]), VARIED.astype(np.float32))
    refused("E-GAUSSIAN-CLASSES", np.eye(3), [2, 2, 2], VARIED)


def test_one_picture_in_every_class_is_refused():
    with pytest.raises(UsageError, match="E-GAUSSIAN-SPREAD: 3 training pictures of 3 classes"):
        check_classes(np.array([0, 3, 1]), VARIED.astype(np.float32))
    check_classes(np.array([0, 3, 1, 1]), VARIED.astype(np.float32))


@pytest.mark.parametrize("size", [0.0, 1e-3, 1e6])
def test_pictures_of_a_class_that_are_all_the_same_are_refused(size):
    message = refused("E-GAUSSIAN-SPREAD", size * np.repeat(np.eye(4), 5, axis=0), np.repeat(np.arange(4), 5), VARIED)
    assert "two or more different ones of a class" in message


def test_attributes_of_which_none_varies_are_refused_and_those_of_other_classes_do_not_help():
    semantic = np.full((4, 4), 0.5, np.float32)
    semantic[3] = 1.0  # a class without pictures
    labels = np.repeat(np.arange(3), 2)
    with pytest.raises(UsageError, match=r"E-GAUSSIAN-ATTRIBUTES: all 3 classes .* have the same attributes"):
        check_classes(labels, semantic)
    refused("E-GAUSSIAN-ATTRIBUTES", np.random.default_rng(0).random((6, 5)), labels, semantic)
    semantic[1, 2] = 0.6
    check_classes(labels, semantic)


def test_constant_columns_classes_of_one_picture_and_more_columns_than_pictures_work():
    problem = Problem(width=60, seen=5)
    assert len(problem.labels) < 60
    assert np.bincount(problem.labels).min() == 1
    for features in (problem.features, problem.held):
        features[:, [3, 17]] = 7.5
        features[:, 40] = 0.0
    wanted = told_apart(Slow(problem, SETTINGS, ERRORS).scores(problem.held))
    np.testing.assert_allclose(told_apart(scored(problem, SETTINGS, ERRORS)), wanted, rtol=1e-6, atol=1e-6)
    found = choose_settings([(problem.spectrum(), problem.held_labels, problem.seen)])
    assert np.isfinite([*found.to_dict().values(), found.gamma, found.temperature]).all()


def test_more_pictures_of_a_class_move_its_mean_from_the_attributes_to_themselves():
    """And its pictures' own mean is never passed."""
    rng = np.random.default_rng(4)
    problem = Problem(equal=4)
    away = problem.features[problem.labels == 0].mean(axis=0) + 30
    moved = []
    for count in (1, 3, 30, 3000):
        others = problem.labels != 0
        problem.features = np.concatenate([problem.features[others], np.tile(away, (count, 1)).astype(np.float32)])
        problem.features += 1e-3 * rng.standard_normal(problem.features.shape).astype(np.float32)
        problem.labels = np.concatenate([problem.labels[others], np.zeros(count, int)])
        spectrum = problem.spectrum()
        solution = solve(spectrum, SETTINGS)
        white = spectrum.white(SETTINGS.shrinkage)
        shipped = finish(method_of(problem)[0], spectrum, HeadChoice(SETTINGS, ERRORS), noise_banks(3, 0))
        means = ClassMeans.without_photographs(run_means(shipped.means, problem.semantic))
        taught = means.taught(evidence_of(run_batched(shipped.lift, problem.features), problem.labels))
        prior, after = (shipped.gaussian.posterior(one)[0] for one in (means, taught))
        own = run_batched(shipped.lift, away[None])[0]
        moved.append(np.linalg.norm(after - prior) / np.linalg.norm(own - prior))
        assert solution.means.shape[1] == white.basis.shape[1]
    assert all(0 < few < many < 1.001 for few, many in pairwise(moved))
    assert moved[-1] > 0.99
