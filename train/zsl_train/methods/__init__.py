"""The table of methods. A new one is one file and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from zsl_runtime.errors import UsageError, nearest
from zsl_train.methods import acmr, cada_vae, dcr_gan, eszsl, f_clswgan, lisgan, sc_egg, sp_aen, tf_vaegan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zsl_train.methods.base import Dims, Trained, TrainingData
    from zsl_train.session import Session


class Method(Protocol):
    """What a method's module offers (see `zsl_train.methods.base`)."""

    Config: Any

    @property
    def NAME(self) -> str:  # noqa: N802  # a constant of the module
        """What users call it."""

    @property
    def PRESETS(self) -> Mapping[str, Mapping[str, Any]]:  # noqa: N802
        """Name -> settings that differ from the defaults of Config."""

    @property
    def LENGTHS(self) -> Sequence[str]:  # noqa: N802
        """The settings that say how long the stages are: where a recipe gives one, nothing is sized to the data.

        Empty for a method in closed form: then `cap_epochs` and `size` give the settings back.
        """

    def build(self, config: Any, dims: Dims) -> Trained:
        """The shipped modules, untrained."""

    def fit(self, data: TrainingData, config: Any, session: Session, seed: int) -> Trained:
        """Train."""

    def cap_epochs(self, config: Any, epochs: float, count: int) -> Any:
        """The same settings with no stage longer than `epochs` passes over `count` pictures."""

    def size(self, config: Any, dims: Dims, count: int, seconds: float) -> Any:
        """The same settings with stages as long as this data needs and `seconds` on two cores allow."""

    def estimate(self, config: Any, dims: Dims, count: int) -> float:
        """Seconds one training takes on two cores."""


METHODS: dict[str, Method] = {
    method.NAME: method for method in (sc_egg, sp_aen, dcr_gan, lisgan, acmr, f_clswgan, tf_vaegan, cada_vae, eszsl)
}


def find_method(name: str) -> Method:
    """The method called `name`; UsageError E-METHOD lists the known ones."""
    if name not in METHODS:
        raise UsageError(
            "E-METHOD", f"no method {name!r}; known are {', '.join(sorted(METHODS))}{nearest(name, METHODS)}"
        )
    return METHODS[name]
