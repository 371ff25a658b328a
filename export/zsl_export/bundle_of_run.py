"""A finished run becomes a bundle: graphs, gate, probe, manifest, one atomic write."""

from __future__ import annotations

import datetime as dt
import json
import platform
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from zsl_export.graphs import input_port, lift_graph, model_graph, rows_graph, synthesizer_graph
from zsl_export.parity import gate, measure
from zsl_export.to_onnx import OPSET, export_graph
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.bundle import Probe, check_dest, write_bundle
from zsl_runtime.errors import from_os_error
from zsl_runtime.head import fold
from zsl_runtime.manifest import PARTS, PROBE, REPLAY
from zsl_runtime.storage import exclusive, temporary_name
from zsl_train import run_folder

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterator

    from numpy.typing import NDArray

    from zsl_export.graphs import Graph
    from zsl_export.parity import Parity
    from zsl_train.run_folder import Run

    Tell = Callable[[str], None]

PARITY = "parity.json"
# Packages whose version can change a graph, a number or a picture.
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")
PROBE_BATCH = 16


def export_run(
    run: Run,
    dest: str | os.PathLike[str],
    *,
    probe_images: bool = True,
    force: bool = False,
    threads: int = 1,
    tell: Tell = lambda _: None,
) -> Path:
    """Export a run, hold the graphs against it, and write the bundle if they agree.

    Args:
        run: finished, its modules in eval mode on the CPU.
        dest: folder to make.
        probe_images: keep the probe's pictures in the bundle; without them nobody can run the probe again.
        force: replace a bundle that is there.
        threads: for ONNX Runtime.
        tell: gets a line for the user now and then.

    Returns:
        The bundle's folder.

    Raises:
        UsageError: E-BUNDLE-EXISTS, E-BUNDLE-DEST before any work is done; E-GRAPH-SIZE.
        GateError: E-GRAPH-CONTRACT, E-PARITY, E-PARITY-EMPTY, E-PARITY-SHAPE; there is no bundle then.
        SystemProblem: the system said no; there is no bundle then.

    """
    target = Path(dest).resolve()
    check_dest(target, force=force)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with working_folder(target) as work:
            graphs = _export_graphs(run, work, tell)
            engine = OrtBackend(
                {**dict.fromkeys(PARTS["rows"] + PARTS["fit"]), **{path.stem: path for path in graphs.values()}},
                threads,
            )
            with timed(tell, "compared ONNX Runtime with PyTorch"):
                parity = measure(run, engine)
            for line in parity.lines():
                tell(line)
            gate(parity)
            files: dict[str, Path | bytes] = {
                **graphs,
                **({REPLAY: run.replay.to_bytes()} if run.trained.head_rule == "fit" else {}),
                PROBE: make_probe(run, engine, pictures=probe_images).to_bytes(),
                PARITY: parity_file(parity),
            }
            engine.close()
            return write_bundle(
                target, manifest=make_manifest(run, graphs), files=files, generation=run.generation, force=force
            )
    except OSError as error:
        raise from_os_error(error, "write the bundle") from error


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, removed at the end.

    It is named and locked as `write_bundle` does with its own, so that the next export to the same place removes it
    when this process was killed.
    """
    work = temporary_name(target)
    work.mkdir()
    try:
        with exclusive(work):
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def timed(tell: Tell, what: str) -> Iterator[None]:
    """Tell `what` with the seconds it took, once it is done."""
    started = time.perf_counter()
    yield
    tell(f"{what} ({time.perf_counter() - started:.1f} s)")


def _export_graphs(run: Run, folder: Path, tell: Tell) -> dict[str, Path]:
    """The graphs of the run as files in `folder`, by name."""
    graphs: dict[str, Graph | None] = {
        "model": model_graph(run.backbone, run.trained),
        "synthesizer": synthesizer_graph(run.trained, run.dims.attributes),
        "rows": rows_graph(run.trained, run.dims.attributes),
        "lift": lift_graph(run.trained),
    }
    written = {}
    for part, graph in graphs.items():
        name = f"{part}.onnx"
        if graph is not None:
            written[name] = folder / name
            with timed(tell, f"exported {name}"):
                export_graph(graph, written[name], graph_metadata(run, name))
    return written


def graph_metadata(run: Run, name: str) -> dict[str, str]:
    """What an ONNX file says about itself when it is met without its bundle: key -> JSON text."""
    facts = {
        "graph": name,
        "pixels": make_pixels(run),
        "dims": make_dims(run),
        "versions": versions(),
        "exporter": {"name": "zsl-deploy", "licence": "Apache-2.0"},
    }
    return {key: json.dumps(value) for key, value in facts.items()}


def make_pixels(run: Run) -> dict[str, Any] | None:
    """How pictures are prepared; None for a model trained on a feature file."""
    return None if run.backbone.pixels is None else run.backbone.pixels.to_dict()


def make_backbone(run: Run) -> dict[str, Any]:
    """What is before the method: a network with its weights, or which features the model needs in its place."""
    backbone = run.backbone
    if backbone.pixels is None:
        note = (
            f"takes rows of features as in {backbone.file}, extracted in the same way; others of the same width "
            "give labels without meaning"
        )
        return {**backbone.facts(), "note": note}
    return {
        "name": backbone.name,
        "weights_sha256": backbone.weights_sha256,
        "size": backbone.pixels.crop,
        "regions": run.dims.regions,
        "channels": run.dims.channels,
    }


def make_dims(run: Run) -> dict[str, int]:
    """F, D, A and Z of the manifest."""
    trained = run.trained
    return {"F": trained.feature_width, "D": trained.lifted_width, "A": run.dims.attributes, "Z": trained.noise_width}


def versions() -> dict[str, Any]:
    """What the bundle was made with."""
    return {**run_folder.versions(PACKAGES), "opset": OPSET}


def make_probe(run: Run, engine: OrtBackend, *, pictures: bool) -> Probe:
    """The probe's inputs with what the shipped graph makes of them under Generation 1.

    Args:
        run: its first `probe_count` pictures, or rows of features, are taken.
        engine: runs the exported graphs.
        pictures: False leaves the inputs themselves out.

    """
    head = fold(run.generation.head, run.generation.table.seen)
    probe = run.pictures[: run.probe_count]
    parts = [engine.run(probe[start : start + PROBE_BATCH], head) for start in range(0, len(probe), PROBE_BATCH)]
    scores = np.concatenate([scores for scores, _ in parts])
    kept = np.ascontiguousarray(probe) if pictures else None
    of_pixels = run.backbone.pixels is not None
    return Probe(
        pixels=cast("NDArray[np.uint8]", kept) if of_pixels else None,
        inputs=None if of_pixels else cast("NDArray[np.float32]", kept),
        features=np.concatenate([features for _, features in parts]),
        scores=scores,
        top1=scores.argmax(axis=1).astype(np.int64),
    )


def parity_file(parity: Parity) -> bytes:
    """parity.json: the verdict with the versions it holds for."""
    content = {
        **parity.to_dict(),
        "versions": versions(),
        "torch_threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def make_manifest(run: Run, graphs: Collection[str]) -> dict[str, Any]:
    """manifest.json but for what `write_bundle` fills in (ARCHITECTURE.md, Bundle); `graphs` are its ONNX files."""
    trained, port = run.trained, input_port(run.backbone)
    return {
        "method": run.method,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "versions": {**versions(), "training": run.info["versions"]},
        "backbone": make_backbone(run),
        "pixels": make_pixels(run),
        "input": {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)},
        "graphs": {part: name if (name := f"{part}.onnx") in graphs else None for part in PARTS[trained.head_rule]},
        "dims": make_dims(run),
        "attributes": list(run.generation.table.attributes),
        "semantic_rule": run.semantic_rule.to_dict(),
        "head": {
            "rule": trained.head_rule,
            "views": [view.to_dict() for view in trained.views],
            "synthetic_per_class": trained.synthetic_per_class,
            "seed": run.seed,
        },
        "recipe": run.recipe,
        "scores": run.scores,
    }
