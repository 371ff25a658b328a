"""Which backends of the table can be used where the tests run."""

from __future__ import annotations

import pytest

from zsl_runtime.backends.devices import find_card, trouble
from zsl_runtime.backends.table import BACKENDS, version_of

FROM_GRAPHS = sorted(set(BACKENDS) - {"tensorrt"})  # that one runs engines: tests/runtime/trt


def usable_backend(name: str) -> str:
    """`name`; the test is skipped, by name, where that backend cannot be used."""
    if BACKENDS[name].device == "cuda":
        card, problem = find_card(0)
        error = trouble(name, None, "fp32", card)
        if error is not None or card is None:
            pytest.skip(f"backend {name}: {error or problem}")
    elif version_of(BACKENDS[name].packages) is None:
        pytest.skip(f"backend {name}: its library is not installed")
    return name


def auto_chooses_among(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Let backend `auto` choose among these alone, wherever the table is read, until `patch` is undone."""
    for name, kind in list(BACKENDS.items()):
        patch.setitem(BACKENDS, name, kind._replace(fast=name in names))
