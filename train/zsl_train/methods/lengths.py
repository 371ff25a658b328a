"""How long the stages of a training are: epochs or steps, sized to the data and to a time budget, capped.

A method lists its stages once (`Stage`); the four functions below are then its `steps_of`, `estimate`, `size` and
`cap_epochs` (see `zsl_train.methods`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOPS_PER_SECOND = 60e9  # what two cores of a current server reach in these products, measured
STEP_SECONDS = 0.004  # of a step besides its products: drawing, small tensors, Python


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: its settings are `{name}_epochs` and `{name}_steps`; the latter counts when it is positive.
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

    def steps(self, config: Any, count: int) -> int:
        """Steps of this stage for `count` training pictures; at least 1."""
        asked: int = getattr(config, f"{self.name}_steps")
        return asked if asked > 0 else self.passes(getattr(config, f"{self.name}_epochs"), count)

    def passes(self, epochs: float, count: int) -> int:
        """Steps of that many epochs; at least 1."""
        return steps(self.loops * epochs, 0, count, self.batch or count)


def steps(epochs: float, given: int, count: int, batch: int) -> int:
    """`given` steps when positive, else those of `epochs` passes over `count` pictures in batches; at least 1."""
    return given if given > 0 else max(1, round(epochs * count / batch))


def step_seconds(multiply_adds: float, updates: int = 1) -> float:
    """Seconds of a step of that many multiply-adds and that many updates of an optimiser, on two cores."""
    return 2 * multiply_adds / FLOPS_PER_SECOND + updates * STEP_SECONDS


def estimate(stages: Sequence[Stage], config: Any, count: int) -> float:
    """Seconds one training takes on two cores, heads and scores left out."""
    return sum(stage.steps(config, count) * stage.seconds for stage in stages)


def size(stages: Sequence[Stage], config: Any, count: int, seconds: float) -> Any:
    """Stage lengths for this data: enough steps even for a small set, but no more than fit into `seconds`.

    Few pictures make short epochs: a stage gets at least its `shortest`. If the stages then take longer than
    `seconds`, all are shortened by one factor.
    """
    wanted = [max(stage.steps(config, count), stage.shortest) for stage in stages]
    sized = _with_steps(stages, config, wanted)
    share = seconds / estimate(stages, sized, count)
    return sized if share >= 1 else _with_steps(stages, config, [int(n * share) for n in wanted])


def cap_epochs(stages: Sequence[Stage], config: Any, epochs: float, count: int) -> Any:
    """No stage longer than `epochs` passes over the pictures, those counted in steps included."""
    capped = [min(stage.steps(config, count), stage.passes(epochs, count)) for stage in stages]
    return _with_steps(stages, config, capped)


def _with_steps(stages: Sequence[Stage], config: Any, counts: Sequence[int]) -> Any:
    return replace(config, **{f"{stage.name}_steps": max(1, n) for stage, n in zip(stages, counts, strict=True)})
