"""One real export of the tiny run for all tests of this folder: tracing takes seconds, the rest milliseconds."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from support.tiny_photographs import lay_out_photographs
from support.tiny_run import make_tiny_run
from zsl_export import bundle_of_run
from zsl_export.bundle_of_run import export_run
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.bundle.bundle import Bundle

if TYPE_CHECKING:
    from pathlib import Path

    from zsl_train.training.run_folder import Run


class Exported(NamedTuple):
    """The tiny run, its bundle, and what the export told the user."""

    run: Run
    bundle: Path
    told: tuple[str, ...]

    def engine(self, **graphs: Path) -> OrtBackend:
        """ONNX Runtime over the exported graphs, some of them replaced."""
        own = {part: self.bundle / f"{part}.onnx" for part in ("model", "synthesizer", "lift")}
        return OrtBackend({**own, **graphs}, 1)


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Exported:
    run, told = make_tiny_run(), []
    bundle = export_run(run, tmp_path_factory.mktemp("bundle") / "tiny bundle", tell=told.append)
    return Exported(run, bundle, tuple(told))


@pytest.fixture(scope="session")
def exported_rows(tmp_path_factory) -> Exported:
    """A run without a lift whose rows come from attributes, and its bundle."""
    run, told = make_tiny_run(rule="rows", lift=False, pictures=12), []
    bundle = export_run(run, tmp_path_factory.mktemp("rows") / "bundle", tell=told.append)
    return Exported(run, bundle, tuple(told))


@pytest.fixture
def traced_before(exported, monkeypatch) -> None:
    """Let `export_run` of the tiny run copy the graphs of `exported` instead of tracing them again."""

    def copy(graph, path, metadata) -> None:
        shutil.copyfile(exported.bundle / path.name, path)

    monkeypatch.setattr(bundle_of_run, "export_graph", copy)


class Precise(NamedTuple):
    """A tiny run with photographs, its bundle in every precision, and what the export told the user."""

    run: Run
    data: Path
    bundle: Path
    told: str

    def engine(self, precision: str) -> OrtBackend:
        """ONNX Runtime over the model graph in one precision, by its key in the manifest."""
        name = Bundle.open(self.bundle).manifest["precisions"][precision]
        return OrtBackend({"model": self.bundle / name}, 1)


@pytest.fixture(scope="session")
def precise(tmp_path_factory) -> Precise:
    run, told = make_tiny_run(), []
    folder = tmp_path_factory.mktemp("precise")
    data = lay_out_photographs(run, folder / "data", folder / "run")
    bundle = export_run(run, folder / "bundle", precisions=("fp32", "fp16", "int8"), max_drop=100.0, tell=told.append)
    return Precise(run, data, bundle, "\n".join(told))


@pytest.fixture
def precise_before(precise, monkeypatch) -> None:
    """Let `export_run` of a tiny run copy the graphs of `precise`, the half-precision one too."""

    def copy(graph, path, metadata) -> None:
        shutil.copyfile(precise.bundle / path.name, path)

    monkeypatch.setattr(bundle_of_run, "export_graph", copy)
