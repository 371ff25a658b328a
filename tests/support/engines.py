"""Engines in tests: facts and plan of one that is none, and whether the library that builds without a card is there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from zsl_runtime.graphs.ports import Port, Ports
from zsl_runtime.trt.facts import Facts, Profile, Stored
from zsl_runtime.trt.library import Library, installed
from zsl_runtime.trt.store import find, store

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
PLAN = b"ftrt" + bytes(range(200))
PORTS = Ports((Port("images", "uint8", ("N", 8, 8, 3)),), (Port("scores", "float32", ("N", "C")),))


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


def kept(bundle: Bundle, plan: bytes = PLAN, **changes: Any) -> Path:
    """Store a plan of nothing as such an engine."""
    return store(bundle.path, facts_of(bundle, **changes), plan, PORTS, 12.5)


def looked_for(bundle: Bundle, **changes: Any) -> Stored:
    """What is found for the library and the card of FACTS."""
    wanted = {"flavour": "tensorrt", "version": "11.4.0.106", "compute_capability": "9.0", "precision": "fp32"}
    return find(bundle, **{**wanted, **changes})
