"""What is inside a Gaussian head, in closed form: canonical coordinates, class means from attributes, and their errors.

The model: pictures of a class spread around its mean with one covariance W for all classes, linear discriminant
analysis. W is the pooled covariance within the seen classes, shrunk towards its mean eigenvalue (Ledoit and Wolf 2004;
the share is a setting). The mean of a class follows from its semantic vector: by kernel ridge regression (GFZSL: Verma
and Rai, ECML 2017), as the mean of what a generator makes of it, or both averaged. E is the covariance of the
regression's errors on classes it was not fitted on, leave-one-out in closed form: with G = K + r I, the error at class
c is (G^-1 M)_c / (G^-1)_cc (Rasmussen and Williams 2006, Eq. 5.12).

Canonical coordinates: V with V' W V = I and V' E V = diag(d); x = V' (f - centre). Rows are made of means by
`zsl_runtime.head.gaussian`. All in float64.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zsl_runtime.errors import UsageError
from zsl_runtime.head.gaussian import Gaussian
from zsl_train.head.modules import shipped
from zsl_train.means import Shape
from zsl_train.scoring.evaluate import Curve, Held, choose_gamma, fit_temperature, seen_unseen_curve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Bools, Doubles, Floats, Ints
    from zsl_train.methods.base import Trained


# What is tried on the folds. Widths are in units of the root mean square distance between semantic vectors.
# In the order in which equals are preferred.
SHRINKAGES = (0.2, 0.1, 0.3, 0.05, 0.5, 0.7, 0.9)
WIDTHS = (1.0, 0.7, 1.4, 0.5, 2.0)
RIDGES = (0.03, 0.1, 0.01, 0.3, 0.003)
KAPPAS = (1.0, 0.5, 2.0, 0.0, 4.0)
SHARES = (0.0, 0.5, 0.25, 0.75, 1.0)
DRAWS = (1, 8)  # features synthesized for the mean of a class
PASSES = 2  # over the settings, one after the other
# That `choose_settings` tries of a method with a generator, for estimates of time: as counted, once more for `cross`.
SETTINGS_TRIED = 150
ALIKE = 0.25  # points of mean H; what differs by less is chance, however steady it is
RATIO_BOUNDS = (0.05, 16.0)  # of errors on left-out classes by those of leave-one-out: a few classes make it noisy
SMALLEST = 1e-9  # of a spread; below that there is none


@dataclass(frozen=True)
class Settings:
    """What the folds choose.

    Attributes:
        shrinkage: of W towards its mean eigenvalue, in (0, 1].
        width: of the kernel, in units of the root mean square distance between the seen classes' semantic vectors.
        ridge: added to the kernel matrix, whose diagonal is 1.
        kappa: how much coordinates count less in which means are uncertain: s = 1 / (1 + kappa d).
        share: of the generator in a class's mean, from 0 to 1.
        draws: K, features synthesized for it; 0 where its share is 0.

    """

    shrinkage: float = 0.2
    width: float = 1.0
    ridge: float = 0.03
    kappa: float = 1.0
    share: float = 0.0
    draws: int = 0

    def to_dict(self) -> dict[str, float | int]:
        """Plain data for scores.json."""
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """One training, as far as the closed form looks at it.

    Attributes:
        classes: (S,) rows of the table that have training pictures.
        counts: (S,) how many.
        means: (S, F) float64.
        within: (F, F) float64 pooled covariance within these classes.
        semantic: (C, A) of the whole table, newcomers included.
        generated: K -> (C, F) mean of K synthesized features of every class; empty without a generator.

    """

    classes: Ints
    counts: Ints
    means: Doubles
    within: Doubles
    semantic: Floats
    generated: Mapping[int, Floats] = field(default_factory=dict)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays, to be kept between two sittings."""
        plain = {name: getattr(self, name) for name in ("classes", "counts", "means", "within", "semantic")}
        return plain | {f"generated{draws}": array for draws, array in self.generated.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Case:
        """What `to_arrays` gave."""
        prefix = "generated"
        made = {int(name.removeprefix(prefix)): array for name, array in arrays.items() if name.startswith(prefix)}
        return cls(**{name: array for name, array in arrays.items() if not name.startswith(prefix)}, generated=made)


def make_case(features: Floats, labels: Ints, semantic: Floats, generated: Mapping[int, Floats] | None = None) -> Case:
    """Class means and the spread around them.

    Args:
        features: (n, F) of the training pictures.
        labels: (n,) rows of `semantic`.
        semantic: (C, A).
        generated: see `Case`.

    Raises:
        UsageError: E-GAUSSIAN-SPREAD when nothing varies within any class; as `check_classes`.

    """
    check_classes(labels, semantic)
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    x = np.asarray(features, np.float64)
    means = np.stack([x[index == place].mean(axis=0) for place in range(len(classes))])
    rest = x - means[index]
    within = rest.T @ rest / max(len(x) - len(classes), 1)
    if not np.trace(within) > SMALLEST * max(float((x**2).sum(axis=1).mean()), SMALLEST):
        raise _no_spread(len(x), len(classes))
    return Case(classes, counts, means, within, semantic, dict(generated or {}))


def check_classes(labels: Ints, semantic: Floats) -> None:
    """Refuse what no training can make a Gaussian head of, before one begins.

    Args:
        labels: (n,) of the training pictures, rows of `semantic`.
        semantic: (C, A).

    Raises:
        UsageError: E-GAUSSIAN-CLASSES for a single class, E-GAUSSIAN-SPREAD when no class has two pictures,
            E-GAUSSIAN-ATTRIBUTES when the classes with pictures all have the same attributes.

    """
    classes = np.unique(labels)
    if len(classes) < 2:
        raise UsageError(
            "E-GAUSSIAN-CLASSES",
            f"training pictures of {len(classes)} class; a classifier needs two or more: mark more classes as seen",
        )
    if len(labels) == len(classes):
        raise _no_spread(len(labels), len(classes))
    if not np.ptp(semantic[classes].astype(np.float64), axis=0).max() > SMALLEST:
        raise UsageError(
            "E-GAUSSIAN-ATTRIBUTES",
            f"all {len(classes)} classes with training pictures have the same attributes, so nothing can be told from "
            "them; give attributes that differ from class to class",
        )


def _no_spread(pictures: int, classes: int) -> UsageError:
    return UsageError(
        "E-GAUSSIAN-SPREAD",
        f"{pictures} training pictures of {classes} classes, and nothing varies within a class: how far pictures of "
        "one class spread cannot be told; give two or more different ones of a class, or take a head that needs none: "
        "--method eszsl, or --set head=published for a method with networks",
    )


class Spectrum:
    """A Case in the eigenvectors of its spread, where shrinking the spread only rescales the axes.

    Args:
        case: of one training.
        held: (n, F) features of held-out pictures; (0, F) for a training that is only solved.
        labels: (n,) their classes; those without training pictures are the left-out classes, if they have two or more
            here: of a single one its class's mean and chance cannot be told apart.

    """

    def __init__(self, case: Case, held: Floats, labels: Ints) -> None:
        self.case = case
        values, self.vectors = np.linalg.eigh(case.within)
        self.values: Doubles = np.maximum(values, 0.0)  # rounding makes some of the smallest negative
        self.centre: Doubles = case.means.mean(axis=0)
        self.means: Doubles = (case.means - self.centre) @ self.vectors
        self.held: Doubles = (held.astype(np.float64) - self.centre) @ self.vectors
        held_out, pictures = np.unique(labels, return_counts=True)
        self.left_out: Ints = np.setdiff1d(held_out[pictures > 1], case.classes)
        self.left_out_rows = [np.flatnonzero(labels == one) for one in self.left_out]
        self.generated = {
            k: (made.astype(np.float64) - self.centre) @ self.vectors for k, made in case.generated.items()
        }
        self._white: dict[float, White] = {}
        known = case.semantic[case.classes].astype(np.float64)
        self._apart = _squared_distances(case.semantic.astype(np.float64), known)  # (C, S)
        off = ~np.eye(len(known), dtype=bool)
        self.unit = float(np.sqrt(self._apart[case.classes][off].mean()))

    def white(self, shrinkage: float) -> White:
        """Everything in coordinates in which the shrunk spread is 1."""
        if shrinkage not in self._white:
            shrunk = (1 - shrinkage) * self.values + shrinkage * self.values.mean()
            self._white = {shrinkage: White.of(self, 1 / np.sqrt(shrunk))}  # one at a time: they are large
        return self._white[shrinkage]

    def kernel(self, width: float) -> Doubles:
        """exp(-|a - b|^2 / 2 w^2) of all classes and the seen ones, (C, S)."""
        return np.exp(-self.sharpness(width) * self._apart)

    def sharpness(self, width: float) -> float:
        """1 / (2 w^2) with w in units of the semantic vectors."""
        return 1 / (2 * (width * self.unit) ** 2)


def _squared_distances(a: Doubles, b: Doubles) -> Doubles:
    apart: Doubles = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.maximum(apart, 0)


@dataclass(frozen=True)
class White:
    """Whitened coordinates, cut down to the directions in which any mean lies: nothing else reaches a score.

    Attributes:
        scale: (F,) of the axes of `Spectrum`.
        basis: (F, Q) orthonormal: the span of the seen means and of the generated ones.
        means: (S, Q) of the seen classes.
        generated: K -> (C, Q).
        held: (n, Q) held-out pictures.
        outside: (n_left_out,) squared length of what `basis` leaves of each left-out class's mean, chance taken off.

    """

    scale: Doubles
    basis: Doubles
    means: Doubles
    generated: Mapping[int, Doubles]
    held: Doubles
    outside: Doubles

    @classmethod
    def of(cls, spectrum: Spectrum, scale: Doubles) -> White:
        """Whiten and project."""
        means = spectrum.means * scale
        generated = {draws: made * scale for draws, made in spectrum.generated.items()}
        basis, _ = np.linalg.qr(np.concatenate([means, *generated.values()]).T)
        project = {draws: made @ basis for draws, made in generated.items()}
        held = spectrum.held * scale
        inside = held @ basis
        outside = [_mean_square(held[rows]) - _mean_square(inside[rows]) for rows in spectrum.left_out_rows]
        return cls(scale, basis, means @ basis, project, inside, np.array(outside))


def _mean_square(rows: Doubles) -> float:
    """Squared length of the mean that rows (n > 1, Q) are drawn around: that of their own, less what chance adds."""
    mean = rows.mean(axis=0)
    chance = ((rows - mean) ** 2).sum() / (len(rows) - 1) / len(rows)
    return float((mean**2).sum() - chance)


@dataclass(frozen=True)
class Errors:
    """How far means told from attributes are off, on classes that a training knew no picture of.

    Attributes:
        ratio: of the squared errors in the directions of E, by the trace of E.
        floor: variance in every other direction.

    """

    ratio: float = 1.0
    floor: float = 0.0

    @classmethod
    def mean(cls, found: Sequence[Errors]) -> Errors:
        """Of several folds."""
        return cls(float(np.mean([one.ratio for one in found])), float(np.mean([one.floor for one in found])))


@dataclass(frozen=True)
class Solution:
    """A Case solved with some settings, in the coordinates of `White`.

    Attributes:
        means: (C, Q) of all classes as their attributes tell them.
        coefficients: (S, Q) of the regression.
        directions: (Q, P) orthonormal: the axes of E.
        variances: (P,) of E along them.

    """

    means: Doubles
    coefficients: Doubles
    directions: Doubles
    variances: Doubles


def noise_banks(width: int, seed: int) -> dict[int, Floats]:
    """K -> noise (K, Z) that class means are generated from, for the K of DRAWS; a single draw is no noise at all.

    Args:
        width: Z.
        seed: of the draws.

    """
    rng = np.random.default_rng([seed, 31])
    drawn = rng.standard_normal((max(DRAWS), width), dtype=np.float32)
    return {count: np.zeros((1, width), np.float32) if count == 1 else drawn[:count] for count in DRAWS}


def solve(spectrum: Spectrum, settings: Settings) -> Solution:
    """Means from attributes, and the covariance of the regression's leave-one-out errors."""
    white, case = spectrum.white(settings.shrinkage), spectrum.case
    kernel = spectrum.kernel(settings.width)
    inverse = np.linalg.inv(kernel[case.classes] + settings.ridge * np.eye(len(case.classes)))
    coefficients = inverse @ white.means
    means = kernel @ coefficients
    if settings.share > 0:
        means = (1 - settings.share) * means + settings.share * white.generated[settings.draws]
    errors = coefficients / np.diag(inverse)[:, None] / np.sqrt(len(coefficients))
    _, deviations, directions = np.linalg.svd(errors, full_matrices=False)
    return Solution(means, coefficients, directions.T, deviations**2)


def measure_errors(spectrum: Spectrum, settings: Settings, solution: Solution) -> Errors | None:
    """Errors of the left-out classes' means, less what the chance of their few pictures adds; None without any."""
    if not len(spectrum.left_out):
        return None
    white = spectrum.white(settings.shrinkage)
    along, across = [], []
    for one, rows, outside in zip(spectrum.left_out, spectrum.left_out_rows, white.outside, strict=True):
        apart = white.held[rows] - solution.means[one]
        along.append(_mean_square(apart @ solution.directions))
        across.append(outside + _mean_square(apart) - along[-1])
    axes, width = solution.directions.shape[1], len(white.scale)
    ratio = np.mean(along) / max(solution.variances.sum(), SMALLEST)
    floor = max(np.mean(across) / (width - axes), 0.0) if axes < width else 0.0
    return Errors(float(np.clip(ratio, *RATIO_BOUNDS)), float(floor))


def logits(spectrum: Spectrum, settings: Settings, solution: Solution, errors: Errors) -> Doubles:
    """Scores (n, C) of the held-out pictures, before gamma and temperature.

    The same numbers as the head that ships: rows and posterior means as in `zsl_runtime.head.gaussian`.
    """
    white = spectrum.white(settings.shrinkage)
    variances = errors.ratio * solution.variances + errors.floor
    means = _posterior(spectrum, white, solution, errors)
    # s is 1 / (1 + kappa d) along the directions of E, `rest` across them.
    rest = 1 / (1 + settings.kappa * errors.floor)
    less = rest - 1 / (1 + settings.kappa * variances)
    along = means @ solution.directions  # (C, P)
    bias = -0.5 * (rest * (means**2).sum(axis=1) - (along**2 * less).sum(axis=1))
    scores: Doubles = rest * white.held @ means.T - (white.held @ solution.directions * less) @ along.T + bias
    return scores


def _posterior(spectrum: Spectrum, white: White, solution: Solution, errors: Errors) -> Doubles:
    """Where the classes lie (C, Q): the seen ones at the prior moved towards the mean of their pictures."""
    case = spectrum.case
    variances = errors.ratio * solution.variances + errors.floor
    prior = solution.means[case.classes]
    apart, count = white.means - prior, case.counts[:, None]
    along = apart @ solution.directions
    moved = along * (variances * count / (1 + variances * count))
    other = errors.floor * count / (1 + errors.floor * count)
    means = solution.means.copy()
    means[case.classes] = prior + moved @ solution.directions.T + other * (apart - along @ solution.directions.T)
    return means


# --- the choice on folds --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadChoice:
    """What the folds chose for the head.

    Attributes:
        settings: of the closed form.
        errors: of means told from attributes, mean over the folds.
        gamma: taken off the scores of seen classes.
        temperature: of the probabilities.
        validation_H: mean H over the folds, in percent; None where there was nothing to choose on.
        by_fold: H of every fold at that gamma.
        held: every fold with what the others chose; empty where that was not asked for.

    """

    settings: Settings = field(default_factory=Settings)
    errors: Errors = field(default_factory=Errors)
    gamma: float = 0.0
    temperature: float = 1.0
    validation_H: float | None = None  # noqa: N815  # the metric's name
    by_fold: tuple[float, ...] = ()
    held: tuple[Held | None, ...] = ()

    def to_dict(self) -> dict[str, float | int]:
        """Plain data for scores.json."""
        return self.settings.to_dict() | {"error_ratio": self.errors.ratio, "error_floor": self.errors.floor}


def choose_settings(folds: Sequence[tuple[Spectrum, Ints, Bools]], *, cross: bool = False) -> HeadChoice:
    """The settings with the highest mean H over the folds, gamma chosen for each; then the temperature.

    Settings are gone through one after the other (kernel and ridge together, share and draws together), twice: each
    setting is cheap to compare, all together are not. The first in the order of the table is taken that is no worse
    than the best by more than one standard error of their differences over the folds, or by ALIKE (the rule of one
    standard error: Breiman et al. 1984, section 3.4.3): a few validation classes cannot tell more apart. So a generator
    takes part only where the folds agree that it helps.

    Args:
        folds: of each the Spectrum, the classes of its held-out pictures (n,), and which classes it calls seen (C,).
        cross: find out what the others would have chosen for each fold (`HeadChoice.held`); about as much work again.

    """
    trials = Trials(folds)
    best = trials.choose(range(len(folds)))
    if best.validation_H is None:
        return best
    scores = [z.astype(np.float32) for z in _scores(best.settings, folds)[0]]
    temperature = fit_temperature(
        scores, [labels for _, labels, _ in folds], [seen for _, _, seen in folds], best.gamma
    )
    held = tuple(trials.held(place) for place in range(len(folds))) if cross else ()
    return replace(best, temperature=temperature, held=held)


class Trials:
    """Settings tried on folds. What they give each fold is computed once, whichever folds then choose by it.

    Args:
        folds: as `choose_settings` takes them.

    """

    def __init__(self, folds: Sequence[tuple[Spectrum, Ints, Bools]]) -> None:
        self.folds = folds
        self._known: dict[Settings, tuple[list[Curve | None], list[Errors | None]]] = {}

    def choose(self, among: Sequence[int]) -> HeadChoice:
        """The best settings by some of the folds, with temperature 1."""
        draws = sorted(self.folds[0][0].generated, reverse=True) if self.folds else []
        tried: dict[Settings, HeadChoice] = {}
        best = HeadChoice()
        for grid in grids(draws) * PASSES if among else []:
            wanted = [replace(best.settings, **changed) for changed in grid]
            tried |= {settings: self.validated(settings, among) for settings in wanted if settings not in tried}
            found = [tried[settings] for settings in wanted]
            top = max(found, key=_quality)
            best = next(one for one in found if _alike(one, top))
        return best

    def held(self, place: int) -> Held | None:
        """A fold with the settings and gamma that the others choose.

        Of the fold nothing has a part in that choice but, as one of several, its share in the mean of Errors that the
        others are scored with.
        """
        choice = self.choose([k for k in range(len(self.folds)) if k != place])
        if choice.validation_H is None:
            return None
        own = self._tried(choice.settings)[0][place]
        if own is None:
            return None
        return Held(choice.validation_H, float(own.at(np.array([choice.gamma]))[0]))

    def validated(self, settings: Settings, among: Sequence[int]) -> HeadChoice:
        """What some of the folds say of settings, at the gamma that suits them together."""
        curves, measured = self._tried(settings)
        usable = [curve for k in among if (curve := curves[k]) is not None]
        known = [found for k in among if (found := measured[k]) is not None]
        errors = Errors.mean(known) if known else Errors()
        if not usable:
            return HeadChoice(settings, errors)
        gamma, value = choose_gamma(usable)
        by_fold = tuple(float(curve.at(np.array([gamma]))[0]) for curve in usable)
        return HeadChoice(settings, errors, gamma, 1.0, value, by_fold)

    def _tried(self, settings: Settings) -> tuple[list[Curve | None], list[Errors | None]]:
        """The curve of every fold, and the errors that each measured."""
        if settings not in self._known:
            scores, measured = _scores(settings, self.folds)
            curves = [
                seen_unseen_curve(z, labels, seen) for z, (_, labels, seen) in zip(scores, self.folds, strict=True)
            ]
            self._known[settings] = curves, measured
        return self._known[settings]


def grids(draws: Sequence[int]) -> list[list[dict[str, Any]]]:
    """What is tried of the settings, in the order in which it is gone through.

    Args:
        draws: K of the generator's means; none without a generator.

    """
    shares = [{"share": share, "draws": k if share else 0} for share, k in product(SHARES, draws)]
    made: list[list[dict[str, Any]]] = [
        [{"width": width, "ridge": ridge} for width, ridge in product(WIDTHS, RIDGES)],
        [one for place, one in enumerate(shares) if one not in shares[:place]],
        [{"shrinkage": shrinkage} for shrinkage in SHRINKAGES],
        [{"kappa": kappa} for kappa in KAPPAS],
    ]
    return [one for one in made if one]


def _alike(one: HeadChoice, best: HeadChoice) -> bool:
    """Whether the folds cannot tell `one` from the best."""
    less = np.array(best.by_fold) - np.array(one.by_fold)
    if len(less) < 2:
        return _quality(one) >= _quality(best) - ALIKE
    return bool(less.mean() <= max(ALIKE, less.std(ddof=1) / np.sqrt(len(less))))


def _quality(choice: HeadChoice) -> float:
    return -1.0 if choice.validation_H is None else choice.validation_H


def _scores(
    settings: Settings, folds: Sequence[tuple[Spectrum, Ints, Bools]]
) -> tuple[list[Doubles], list[Errors | None]]:
    """Scores of each fold's held-out pictures, and the errors that each measured.

    A fold is scored with the errors that the others measured: its own would have looked at the pictures scored.
    """
    solutions = [solve(spectrum, settings) for spectrum, _, _ in folds]
    measured = [measure_errors(spectrum, settings, one) for (spectrum, _, _), one in zip(folds, solutions, strict=True)]
    scores = [
        logits(spectrum, settings, one, _of_others(measured, place))
        for place, ((spectrum, _, _), one) in enumerate(zip(folds, solutions, strict=True))
    ]
    return scores, measured


def _of_others(measured: Sequence[Errors | None], place: int) -> Errors:
    """What all folds but one measured; a single one has nothing but its own."""
    others = [found for k, found in enumerate(measured) if found is not None and (k != place or len(measured) == 1)]
    return Errors.mean(others) if others else Errors()


def held_out_distances(spectra: Sequence[Spectrum], choice: HeadChoice) -> Doubles:
    """How far the held-out pictures of all folds are from the nearest class, in standard deviations: (n,).

    The same numbers as `zsl_runtime.head.distance` gives for what a fold would ship; classes that are known by their
    attributes alone are among the classes. Nobody trained on these pictures. Many of them, often most, are of classes
    that their fold had no picture of: as photographs of unseen classes are to the model that ships.

    Args:
        spectra: of the folds, at the share of the last stage that was chosen.
        choice: of the head on them.

    """
    settings, found = choice.settings, [np.zeros(0)]
    solutions = [solve(spectrum, settings) for spectrum in spectra]
    measured = [measure_errors(spectrum, settings, one) for spectrum, one in zip(spectra, solutions, strict=True)]
    for place, (spectrum, one) in enumerate(zip(spectra, solutions, strict=True)):
        white = spectrum.white(settings.shrinkage)
        means = _posterior(spectrum, white, one, _of_others(measured, place))
        if _everywhere(choice):
            inside, squares = white.held, ((spectrum.held * white.scale) ** 2).sum(axis=1)
            width = len(white.scale)
        else:
            inside, means = white.held @ one.directions, means @ one.directions
            squares, width = (inside**2).sum(axis=1), inside.shape[1]
        apart = squares[:, None] - 2 * inside @ means.T + (means**2).sum(axis=1)
        found.append(np.sqrt(np.maximum(apart.min(axis=1), 0) / width))
    return np.concatenate(found)


def _everywhere(choice: HeadChoice) -> bool:
    """Whether means can be off in any direction, so that all F coordinates are kept."""
    return choice.settings.share > 0 or choice.errors.floor > 0


def try_default(spectrum: Spectrum, labels: Ints, seen: Bools) -> HeadChoice:
    """One setting on one fold: what `choose_settings` does some SETTINGS_TRIED times on each."""
    return Trials([(spectrum, labels, seen)]).validated(Settings(), [0])


# --- what ships -----------------------------------------------------------------------------------------------------


def finish(trained: Trained, spectrum: Spectrum, choice: HeadChoice, noise: Mapping[int, Floats]) -> Trained:
    """The modules of the model that ships, with its canonical coordinates, means and statistics.

    Where means can be off in any direction, all F coordinates are kept; else the min(F, S) in which means can lie.

    Args:
        trained: as the method gave it.
        spectrum: of the final training.
        choice: of the folds.
        noise: K -> (K, Z) that `Case.generated` was made with.

    """
    settings, errors = choice.settings, choice.errors
    white, solution = spectrum.white(settings.shrinkage), solve(spectrum, settings)
    axes = white.basis @ solution.directions  # (F, P) in the eigenvectors' coordinates, whitened
    variances = errors.ratio * solution.variances + errors.floor
    if _everywhere(choice):
        axes = np.concatenate([axes, _complement(axes)], axis=1)
        variances = np.concatenate([variances, np.full(axes.shape[1] - len(variances), errors.floor)])
    gaussian = Gaussian(variances, 1 / (1 + settings.kappa * variances))
    matrix = spectrum.vectors @ (white.scale[:, None] * axes)  # V, (F, D)
    case = spectrum.case
    draws = settings.draws if settings.share > 0 else 0
    made = shipped(trained, Shape(len(case.classes), axes.shape[1], draws), case.semantic.shape[1], gaussian)
    assert isinstance(made.lift, torch.nn.Linear)
    assert made.means is not None
    coefficients = solution.coefficients @ (white.basis.T @ axes)
    with torch.no_grad():
        fill_canonical(made.lift, matrix, spectrum.centre)
        made.means.anchors.copy_(torch.from_numpy(case.semantic[case.classes]))
        made.means.coefficients.copy_(torch.from_numpy(coefficients))
        made.means.sharpness.fill_(spectrum.sharpness(settings.width))
        made.means.share.fill_(settings.share if draws else 0.0)
        if made.means.canonical is not None:
            fill_canonical(made.means.canonical, matrix, spectrum.centre)
            made.means.noise.copy_(torch.from_numpy(noise[draws]))
    return made.eval()


def fill_canonical(layer: torch.nn.Linear, matrix: Doubles, centre: Doubles) -> None:
    """Make the layer x = V' (f - centre); matrix is V (F, D)."""
    layer.weight.copy_(torch.from_numpy(matrix.T.copy()))
    layer.bias.copy_(torch.from_numpy(-(centre @ matrix)))


def _complement(axes: Doubles) -> Doubles:
    """(F, F - P) orthonormal columns across the orthonormal columns (F, P)."""
    whole, _ = np.linalg.qr(axes, mode="complete")
    return whole[:, axes.shape[1] :]
