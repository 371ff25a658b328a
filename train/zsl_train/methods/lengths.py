"""How long the stages of a training are: epochs or steps, sized to the data and to a time budget, capped.

A method lists its stages (`Stage`; `stages` of `zsl_train.methods.Method`); everything else about lengths is here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Stages = Sequence["Stage | Once"]

# What two cores of a current server reach, measured: in products over regions, and in those of wide layers and batches
# of vectors, where one busy core reached 60 to 90.
FLOPS_PER_SECOND, WIDE_FLOPS_PER_SECOND = 60e9, 100e9
STEP_SECONDS = 0.004  # of a step besides its products: drawing, small tensors, Python


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: its settings are `{name}_epochs` and `{name}_steps`, or `epochs` and `steps` where it is empty; the latter
            counts when it is positive.
        batch: pictures a step; 0 when every step sees all of them.
        seconds: of one step on two cores.
        shortest: steps below which accuracy suffers: what `size` gives at least, where the time allows it.
        loops: times an epoch goes over the pictures.

    """

    name: str
    batch: int
    seconds: float
    shortest: int
    loops: int = 1

    @property
    def settings(self) -> tuple[str, str]:
        """Names of the settings: epochs, steps."""
        prefix = f"{self.name}_" if self.name else ""
        return f"{prefix}epochs", f"{prefix}steps"

    def steps(self, config: Any, count: int) -> int:
        """Steps of this stage for `count` training pictures; at least 1."""
        epochs, asked = (getattr(config, name) for name in self.settings)
        return asked if asked > 0 else self.passes(epochs, count)

    def passes(self, epochs: float, count: int) -> int:
        """Steps of that many epochs; at least 1."""
        return max(1, round(self.loops * epochs * count / (self.batch or count)))


@dataclass(frozen=True)
class Once:
    """Work without a length: a closed form.

    Attributes:
        seconds: number of training pictures -> seconds on two cores.

    """

    seconds: Callable[[int], float]


def step_seconds(multiply_adds: float, updates: int = 1, rate: float = FLOPS_PER_SECOND) -> float:
    """Seconds of a step of that many multiply-adds and that many updates of an optimiser, on two cores."""
    return 2 * multiply_adds / rate + updates * STEP_SECONDS


def names(stages: Stages) -> set[str]:
    """The settings that say how long the stages are: where a recipe gives one, nothing is sized to the data."""
    return {name for stage in _sized(stages) for name in stage.settings}


def plan(stages: Stages, config: Any, count: int) -> dict[str, int]:
    """Name of the stage -> its steps for `count` training pictures."""
    return {stage.name: stage.steps(config, count) for stage in _sized(stages)}


def estimate(stages: Stages, config: Any, count: int) -> float:
    """Seconds one training takes on two cores, heads and scores left out."""
    return _closed(stages, count) + sum(stage.steps(config, count) * stage.seconds for stage in _sized(stages))


def size(stages: Stages, config: Any, count: int, seconds: float) -> Any:
    """Stage lengths for this data: enough steps even for a small set, but no more than fit into `seconds`.

    Few pictures make short epochs: a stage gets at least its `shortest`. If the stages then take longer than
    `seconds`, all are shortened by one factor. What is done `Once` stays as it is.
    """
    wanted = [max(stage.steps(config, count), stage.shortest) for stage in _sized(stages)]
    sized = _with_steps(stages, config, wanted)
    closed = _closed(stages, count)
    share = max(0.0, seconds - closed) / max(estimate(stages, sized, count) - closed, 1e-9)
    return sized if share >= 1 else _with_steps(stages, config, [int(n * share) for n in wanted])


def lengthen(stages: Stages, config: Any, factor: float, count: int) -> Any:
    """Every stage so many times as long; what is done `Once` stays as it is."""
    return _with_steps(stages, config, [round(factor * stage.steps(config, count)) for stage in _sized(stages)])


def chosen_lengths(stages: Stages, config: Any) -> dict[str, Any]:
    """The settings of `config` that say how long its stages are."""
    return {name: getattr(config, name) for name in sorted(names(stages))}


def cap_epochs(stages: Stages, config: Any, epochs: float, count: int) -> Any:
    """No stage longer than `epochs` passes over the pictures, those counted in steps included."""
    capped = [min(stage.steps(config, count), stage.passes(epochs, count)) for stage in _sized(stages)]
    return _with_steps(stages, config, capped)


def _closed(stages: Stages, count: int) -> float:
    return sum(one.seconds(count) for one in stages if isinstance(one, Once))


def _sized(stages: Stages) -> list[Stage]:
    return [stage for stage in stages if isinstance(stage, Stage)]


def _with_steps(stages: Stages, config: Any, counts: Sequence[int]) -> Any:
    return replace(config, **{stage.settings[1]: max(1, n) for stage, n in zip(_sized(stages), counts, strict=True)})
