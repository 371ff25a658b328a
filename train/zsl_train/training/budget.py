"""What can be tried in a given time is tried, on the same validation classes, and the best of it is kept.

First the closed forms, then methods with networks, each as long as preset `default` makes it or, where that does not
fit, as long as the time allows. Everything is compared by H on validation classes: the same folds for all, the test
pictures play no part. A method that would get less than LEAST_SHARE of its length is left out, and that is said.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import ArtefactError, GateError, UsageError, shown
from zsl_runtime.machine.untrusted import MIB, parse_object, read_file
from zsl_train.methods import METHODS, eszsl, find_method, gfzsl
from zsl_train.methods.lengths import chosen_lengths, estimate, lengthen
from zsl_train.training.prepared import fingerprint
from zsl_train.training.run_info import CHECKPOINT, json_bytes
from zsl_train.training.runner import carry_out, make_task, minutes, with_defaults
from zsl_train.training.stored import write_bytes
from zsl_train.training.timing import FINAL, expect
from zsl_train.training.trainer import Trainer, trainings_in_turn, validation_folds

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from pathlib import Path

    from zsl_train.backbones.base import Backbone
    from zsl_train.data.given import GivenFeatures
    from zsl_train.recipe import Recipe
    from zsl_train.scoring.folds import Fold
    from zsl_train.training.prepared import Prepared
    from zsl_train.training.run_folder import RunWriter
    from zsl_train.training.runner import Progress, Task
    from zsl_train.training.timing import Expected

# In the order in which they are tried: by what they reached on our own data (docs/explanation/accuracy.md).
CLOSED = (gfzsl.NAME, eszsl.NAME)
ITERATED = {"photographs": ("sc-egg", "dcr-gan", "acmr", "lisgan"), "feature rows": ("sp-aen", "sc-egg", "acmr")}
FOR = {
    "sc-egg": "it looks at regions of each photograph; for when the closed form works and every point of H counts",
    "sp-aen": "a network in place of the closed form; on feature vectors it seldom does better",
}
HOPELESS = 2.0  # what would take so many times what is left, as reckoned for a known machine, is not timed
LEAST_SHARE = 0.25  # of the length that preset `default` gives; with less a method is not itself
SPARE = 0.9  # of the time that is planned with: heads, files and a machine that gets slower take the rest
BOARD = "budget.json"
LENGTH = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|m|min|h)?")
UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, None: 60.0}
LONGEST = 30 * 24 * 3600.0


def parse_length(text: str) -> float:
    """Seconds of `90s`, `20m`, `1.5h`; a plain number is minutes. UsageError E-BUDGET for anything else."""
    found = LENGTH.fullmatch(text.strip().lower())
    seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= LONGEST:
        raise UsageError("E-BUDGET", f"--budget {text!r}: expected a length of time such as 90s, 20m or 1.5h")
    return seconds


@dataclass
class Trial:
    """A method on the board.

    Attributes:
        method: its name.
        settings: lengths that were chosen for it; empty for a closed form.
        validation_H: mean over the folds, in percent; None where it was not, or cannot be, tried.
        seconds: that it took.
        final: that its final training is expected to take.
        why: it was left out, in words; empty where it was not.

    """

    method: str
    settings: dict[str, Any]
    validation_H: float | None = None  # noqa: N815  # the metric's name
    seconds: float = 0.0
    final: float = 0.0
    why: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for it."""
        return bool(self.why) or self.validation_H is not None


class Board:
    """The trials of a run, kept in its checkpoints so that an interrupted run goes on with the same plan.

    Args:
        path: of the file.

    Attributes:
        trials: by method.
        used: seconds of earlier sittings.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials: dict[str, Trial] = {}
        self.used = 0.0
        if path.is_file():
            try:
                found = parse_object(read_file(path, MIB))
                self.trials = {one["method"]: _trial_from(one) for one in found["trials"]}
                self.used = _seconds(found["used"])
            except (ValueError, TypeError, LookupError, OverflowError) as error:
                raise ArtefactError(
                    "E-CHECKPOINT", f"{path} cannot be read ({error}); run zsl-train again with --force to start over"
                ) from error

    def save(self, used: float) -> None:
        """Write the trials, and how many seconds were used up to now."""
        write_bytes(self.path, json_bytes({"used": used, "trials": [vars(one) for one in self.trials.values()]}))

    @property
    def final(self) -> float:
        """Seconds of the longest final training of those that were tried."""
        return max((one.final for one in self.trials.values()), default=0.0)

    def best(self) -> Trial:
        """The trial with the highest H on validation classes, the first of equals.

        Raises:
            UsageError: E-BUDGET when there is none: nothing can be compared, or nothing was possible.

        """
        known = [one for one in self.trials.values() if one.validation_H is not None]
        if not known:
            reasons = "; ".join(f"{one.method}: {one.why}" for one in self.trials.values())
            raise UsageError(
                "E-BUDGET", f"nothing could be compared on validation classes ({reasons}); name a --method"
            )
        return max(known, key=lambda one: one.validation_H or 0.0)


def run_budget(
    prepared: Prepared,
    backbone: Backbone | GivenFeatures,
    recipe: Recipe,
    writer: RunWriter,
    *,
    seconds: float,
    began: float,
    named: Container[str] = (),
    say: Callable[[str], None],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Try what fits, keep the best, and fill the run folder with it; returns the content of scores.json.

    Args:
        prepared: pictures and features.
        backbone: that made the features.
        recipe: all but the method.
        writer: the open run folder.
        seconds: in all, what went before included.
        began: when the command did, by `time.monotonic`.
        named: keys of the recipe that somebody has named. Others are as each method would have them, but for the folds,
            which are the same for all.
        say: one line of progress for the user.
        progress: called inside the training loops.

    Raises:
        UsageError: E-BUDGET when nothing could be compared; E-RUN-RECIPE as `RunWriter.begin`.

    """
    first = replace(recipe, method=gfzsl.NAME)
    folds = validation_folds(prepared, first)
    mark = hashlib.sha256(f"budget {seconds} {fingerprint(prepared, first, gfzsl.Config())}".encode()).hexdigest()
    writer.begin(first, gfzsl.Config(), mark)
    checkpoints = writer.folder / CHECKPOINT
    board = Board(checkpoints / BOARD)
    say(f"trying what fits into {minutes(seconds)}, on {len(folds)} folds of validation classes, the same for all")
    earlier = board.used

    def of_method(name: str) -> Recipe:
        own = with_defaults(replace(recipe, method=name), named)
        return replace(own, folds=recipe.folds)

    def used() -> float:
        return earlier + time.monotonic() - began

    for name in (*CLOSED, *ITERATED[prepared.images.unit]):
        trial = board.trials.get(name)
        if trial is None or not trial.over:
            left = SPARE * (seconds - used()) - sum(
                one.seconds for one in board.trials.values() if one.method in CLOSED
            )
            trial, task, expected = _planned(
                prepared, of_method(name), folds, left=left, final=board.final, known=trial
            )
            board.trials[name] = trial
            board.save(used())
            if task is not None:
                if expected is not None:
                    say(f"trying {name}: about {minutes(expected.rounds * expected.fold.total())}")
                    if progress is not None:
                        progress.expect({k: v for k, v in expected.sessions(len(folds)).items() if k != FINAL})
                try:
                    _try(task, trial, checkpoints / name, writer.log, progress if task.iterated else None)
                finally:
                    board.save(used())
        if trial.validation_H is not None:
            say(told(trial))
    best = board.best()
    say(f"{best.method} is the best on validation classes, and is kept")
    made = replace(of_method(best.method), settings={**recipe.settings, **best.settings})
    task = make_task(prepared, made, folds=folds)
    board_lines = [vars(one) for one in board.trials.values()]
    scores = carry_out(
        task,
        backbone,
        writer,
        say=say,
        progress=progress,
        mark=mark,
        checkpoints=checkpoints / best.method,
        more={"leaderboard": board_lines, "budget_seconds": seconds},
    )
    if used() > seconds:
        say(f"note: it took {minutes(used())} where {minutes(seconds)} were given; on a busy machine give more")
    return scores


def _planned(
    prepared: Prepared,
    recipe: Recipe,
    folds: list[Fold],
    *,
    left: float,
    final: float,
    known: Trial | None,
) -> tuple[Trial, Task | None, Expected | None]:
    """The trial of a method, its task where it can be tried, and what that takes where it has stages.

    Args:
        prepared: pictures and features.
        recipe: of the method, all but its lengths.
        folds: the same for all.
        left: seconds.
        final: seconds of the longest final training of those that were tried: it has to fit in as well.
        known: of an earlier sitting that was interrupted: its lengths stand.

    """
    name, settings = recipe.method, known.settings if known is not None else {}
    made = replace(recipe, settings={**recipe.settings, **settings})
    try:
        task = make_task(prepared, made, folds=folds)
    except UsageError as error:
        return Trial(name, {}, why=error.message), None, None
    if not task.iterated:
        return Trial(name, {}), task, None
    stages = find_method(name).stages(task.config, prepared.dims)
    count = len(prepared.training_rows())
    reckoned = LEAST_SHARE * trainings_in_turn(len(folds)) * estimate(stages, task.config, count)
    if known is None and left < reckoned / HOPELESS:  # timing it would cost more of what is left
        return Trial(name, {}, why=f"needs {minutes(reckoned)} or so at least, {_left(left)}"), None, None
    expected = expect(prepared, made, task.config, folds)
    if known is None:
        in_folds = expected.rounds * (expected.fold.total() - expected.fold.setup)
        beside = left - final - expected.heads - expected.rounds * expected.fold.setup
        share = min(1.0, expected.longest(left), beside / max(in_folds, 1e-9))
        if share < LEAST_SHARE:
            least = expected.scaled(LEAST_SHARE)
            own = expected.final.shortened(LEAST_SHARE).total(expected.last)
            needs = minutes(max(least, least - own + final))  # the final training is that of the best
            return Trial(name, {}, why=f"needs {needs} at least, {_left(left)}"), None, None
        config = lengthen(stages, task.config, share, count)
        task = replace(task, config=config)
        expected = replace(expected, fold=expected.fold.shortened(share), final=expected.final.shortened(share))
        settings = chosen_lengths(stages, config)
    return Trial(name, settings, final=expected.final.total()), task, expected


def _left(seconds: float) -> str:
    return f"{minutes(seconds)} were left" if seconds > 0 else "no time was left"


def _try(
    task: Task, trial: Trial, folder: Path, log: Callable[[dict[str, Any]], None], progress: Progress | None
) -> None:
    """Train on the folds, and note what the validation classes say."""
    started = time.monotonic()
    trainer = Trainer(task.prepared, task.recipe, task.config, checkpoints=folder, log=log, progress=progress)
    try:
        trial.validation_H = trainer.select(task.folds).validation_H
        if trial.validation_H is None:
            trial.why = "there are too few seen classes or photographs to compare on"
    except (GateError, UsageError) as error:
        trial.why = error.message
    trial.seconds = round(time.monotonic() - started, 1)


def _trial_from(said: dict[str, Any]) -> Trial:
    """A trial that `Board.save` wrote; ValueError or TypeError for anything else."""
    one = Trial(**said)
    plain = type(one.method) is str and one.method in METHODS and type(one.why) is str and type(one.settings) is dict
    scored = one.validation_H is None or (type(one.validation_H) in {int, float} and 0 <= one.validation_H <= 100)
    if not plain or not scored:
        raise ValueError(f"{shown(one.method)} is no trial of a method")
    one.seconds, one.final = _seconds(one.seconds), _seconds(one.final)
    return one


def _seconds(value: object) -> float:
    """A number of seconds of JSON data; ValueError for anything else."""
    if type(value) not in {int, float} or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{shown(value)} is no number of seconds")
    return float(value)  # type: ignore[arg-type]


def told(trial: Trial) -> str:
    """One line about a trial that was not left out."""
    return f"  {trial.method}: H {trial.validation_H:.1f} on validation classes, in {minutes(trial.seconds)}"


def alternative(prepared: Prepared, recipe: Recipe) -> str:
    """What a longer training would take here, measured, and what it is for: one line.

    Args:
        prepared: pictures and features.
        recipe: of the closed form that was fitted.

    """
    name = ITERATED[prepared.images.unit][0]
    usual = type(recipe)()
    made = with_defaults(
        replace(recipe, method=name, settings={}, folds=usual.folds, snapshots=usual.snapshots), named=()
    )
    try:
        task = make_task(prepared, made)
        needed = minutes(expect(prepared, made, task.config, task.folds).seconds)
    except (UsageError, GateError) as error:
        return f"--method {name} cannot be trained on this data: {error.message}"
    return f"--method {name} would take about {needed} here, measured just now: {FOR[name]}"
