"""One real export of the tiny run for all tests of this folder: tracing takes seconds, the rest milliseconds."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from support.tiny_run import make_tiny_run
from zsl_export import bundle_of_run
from zsl_export.bundle_of_run import export_run
from zsl_runtime.backends.ort import OrtBackend

if TYPE_CHECKING:
    from pathlib import Path

    from zsl_train.run_folder import Run


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


@pytest.fixture
def traced_before(exported, monkeypatch) -> None:
    """Let `export_run` of the tiny run copy the graphs of `exported` instead of tracing them again."""

    def copy(graph, path, metadata) -> None:
        shutil.copyfile(exported.bundle / path.name, path)

    monkeypatch.setattr(bundle_of_run, "export_graph", copy)
