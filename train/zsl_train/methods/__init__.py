"""The table of methods. A new one is one file and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from zsl_runtime.errors import UsageError, nearest
from zsl_train.methods import acmr, cada_vae, dcr_gan, eszsl, f_clswgan, gfzsl, lisgan, sc_egg, sp_aen, tf_vaegan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zsl_train.methods.base import Dims, Trained, TrainingData
    from zsl_train.methods.lengths import Once, Stage
    from zsl_train.methods.session import Session


class Method(Protocol):
    """What every method's module offers; what it may offer beside that is listed in `zsl_train.methods.base`."""

    Config: Any

    @property
    def NAME(self) -> str:  # noqa: N802  # a constant of the module
        """What users call it."""

    @property
    def PRESETS(self) -> Mapping[str, Mapping[str, Any]]:  # noqa: N802
        """Name -> settings that differ from the defaults of Config."""

    def build(self, config: Any, dims: Dims) -> Trained:
        """The shipped modules, untrained."""

    def fit(self, data: TrainingData, config: Any, session: Session, seed: int) -> Trained:
        """Train."""

    def stages(self, config: Any, dims: Dims) -> Sequence[Stage | Once]:
        """The stages of a training in order; their lengths are settings, except where they have none (`lengths`)."""


METHODS: dict[str, Method] = {
    method.NAME: method
    for method in (sc_egg, sp_aen, dcr_gan, lisgan, acmr, f_clswgan, tf_vaegan, cada_vae, eszsl, gfzsl)
}


def find_method(name: str) -> Method:
    """The method called `name`; UsageError E-METHOD lists the known ones."""
    if name not in METHODS:
        raise UsageError(
            "E-METHOD", f"no method {name!r}; known are {', '.join(sorted(METHODS))}{nearest(name, METHODS)}"
        )
    return METHODS[name]
