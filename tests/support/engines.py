"""Engines in tests: facts of one, and whether the library that builds without a card is there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from zsl_runtime.trt.facts import Facts, Profile
from zsl_runtime.trt.library import Library, installed

if TYPE_CHECKING:
    from pathlib import Path

    from zsl_runtime.bundle.bundle import Bundle

RTX = next(state for state in installed() if state.name == "tensorrt-rtx")
needs_rtx = pytest.mark.skipif(
    RTX.version is None, reason=f"TensorRT-RTX, which builds engines without a card: {RTX.reason}"
)
FACTS = Facts(
    graph_sha256="0" * 64,
    part="model",
    flavour="tensorrt",
    version="11.4.0.106",
    compute_capabilities=("9.0",),
    gpu="NVIDIA H200",
    precision="fp32",
    profiles=(Profile(1, 1, 8), Profile(1, 64, 64)),
    max_classes=20_000,
)


def facts_of(bundle: Bundle, **changes: Any) -> Facts:
    """Facts of an engine of this bundle's model in fp32, changed."""
    name = bundle.precisions["fp32"]
    return replace(FACTS, **{"graph_sha256": bundle.manifest["files"][name]["sha256"], **changes})


def library_of(module: Any, flavour: str = "tensorrt") -> Library:
    """A Library around a fake module."""
    return Library(flavour, module.__version__, module)


def real_trusted(cache: Path) -> list[str]:
    """What the user's cache folder says was built here."""
    return (cache / "trusted-engines").read_text().splitlines()
