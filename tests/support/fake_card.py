"""A machine with a card and TensorRT that are none: what the tests of the card's backend run on."""

from __future__ import annotations

import gc
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from support.drivers import pretend_driver
from support.fake_cuda import FakeCuda, FakeTopK
from support.fake_tensorrt import MODULES, VERSIONS, FakeTensorRt, make_plan
from zsl_runtime.backends import tensorrt
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.graphs.ports import ports_of
from zsl_runtime.graphs.precisions import TENSORRT_FILES
from zsl_runtime.machine.cards import Card, Driver
from zsl_runtime.trt import build
from zsl_runtime.trt.facts import Facts, Profile
from zsl_runtime.trt.library import Library
from zsl_runtime.trt.store import store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PROFILES = ((1, 1, 8), (1, 16, 32))


class FakeCard:
    """The fakes together, in place of the real ones.

    Args:
        patch: puts them there.
        flavour: of TensorRT.
        devices: compute capability of each card.
        seed: as of FakeCuda.
        kernels: whether best columns are found on the card.

    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        flavour: str = "tensorrt",
        devices: tuple[str, ...] = ("8.9",),
        seed: int | None = 0,
        *,
        kernels: bool = True,
    ) -> None:
        self.cuda = FakeCuda(devices, seed=seed)
        self.trt = FakeTensorRt(self.cuda, flavour)
        self.flavour = flavour
        self.library = Library(flavour, VERSIONS[flavour], self.trt)
        package = ModuleType("cuda.bindings")
        package.runtime = self.cuda  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "cuda", ModuleType("cuda"))
        patch.setitem(sys.modules, "cuda.bindings", package)
        for name, module in MODULES.items():
            patch.setitem(sys.modules, module, self.trt if name == flavour else None)
            patch.setitem(sys.modules, f"{module}_bindings", None)
        patch.setattr(tensorrt, "has_kernels", lambda: kernels)
        patch.setattr(tensorrt, "CudaTopK", lambda device: FakeTopK(self.cuda, device))
        shown = tuple(Card(i, f"Fake {i}", capability, 1 << 30) for i, capability in enumerate(devices))
        pretend_driver(patch, Driver("580.1", "13.0", shown, ""))
        self.built: list[dict] = []
        patch.setattr(build, "build", self._build)

    def add_engine(self, bundle: Path | Bundle, precision: str = "fp32", **how) -> Path:
        """Store an engine of a bundle's model; returns its plan. `how`: profiles, classes, gpu, version, shift ..."""
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        name = bundle.precisions[TENSORRT_FILES[precision]]
        profiles = how.get("profiles", PROFILES)
        facts = Facts(
            graph_sha256=bundle.manifest["files"][name]["sha256"],
            part="model",
            flavour=self.flavour,
            version=how.get("version", VERSIONS[self.flavour]),
            compute_capabilities=how.get("capabilities", ("8.9",)),
            gpu=how.get("gpu", "Fake 0"),
            precision=precision,
            profiles=tuple(Profile(*one) for one in profiles),
            max_classes=how.get("classes", 20_000),
        )
        plan = make_plan(bundle.file(name), profiles, classes=facts.max_classes, shift=how.get("shift", 0.0))
        return store(bundle.path, facts, plan, ports_of(bundle, "model"), trusted=how.get("trusted", True))

    def _build(self, library, path, *, profiles, max_classes, progress, **how) -> bytes:
        """In place of the real builder, which is tested elsewhere."""
        self.built.append(how | {"profiles": profiles, "path": path})
        progress.start("Building Engine", 2)
        progress.finish("Building Engine")
        progress.clear()
        return make_plan(path, [(one.min_batch, one.opt_batch, one.max_batch) for one in profiles], classes=max_classes)

    def check(self) -> None:
        """Nothing was misused, and everything was given back."""
        if self.cuda.held() or any(self.trt.alive.values()):
            gc.collect()  # what holds each other in a circle
        assert self.cuda.misuses == [], self.cuda.misuses
        assert self.cuda.held() == {}, self.cuda.held()
        assert not any(self.trt.alive.values()), self.trt.alive
