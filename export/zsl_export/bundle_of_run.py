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
import onnx
import torch

from zsl_export.accuracy import accuracy_gate, measure_accuracy
from zsl_export.graphs import (
    explain_graph,
    input_port,
    lift_graph,
    means_graph,
    model_graph,
    rows_graph,
    synthesizer_graph,
)
from zsl_export.half import half_graph, halved
from zsl_export.parity import gate, measure, measure_half, measure_maps
from zsl_export.photographs import LEAST, calibration_pictures, find_photographs
from zsl_export.precisions import FILES, FP16, FP32, INT8, files_of
from zsl_export.quantize import no_convolutions, quantize_graph
from zsl_export.readout import make_readout, readable
from zsl_export.to_onnx import OPSET, export_graph
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.bundle.generation import Probe
from zsl_runtime.bundle.manifest import EXPLAIN, GAUSSIAN, PARTS, PROBE, READOUT, REPLAY
from zsl_runtime.bundle.writing import check_dest, clean_siblings, write_bundle
from zsl_runtime.errors import UsageError, from_os_error
from zsl_runtime.graphs.parts import SMALL_PARTS
from zsl_runtime.head.head import fold
from zsl_runtime.machine.storage import claimed_folder, new_sibling
from zsl_train.training import run_folder

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterator, Mapping

    from numpy.typing import NDArray

    from zsl_export.graphs import Graph
    from zsl_export.parity import Parity
    from zsl_runtime.bundle.signing import Signer
    from zsl_runtime.head.class_table import ClassTable
    from zsl_train.training.run_folder import Run

    Tell = Callable[[str], None]

PARITY = "parity.json"
# Packages whose version can change a graph, a number or a picture.
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")
PROBE_BATCH = 16
ATTENTION = "explain.onnx"


def export_run(
    run: Run,
    dest: str | os.PathLike[str],
    *,
    precisions: tuple[str, ...] = (FP32,),
    data: str | None = None,
    max_drop: float | None = None,
    probe_images: bool = True,
    explain: bool = True,
    force: bool = False,
    threads: int = 1,
    tell: Tell = lambda _: None,
    signer: Signer | None = None,
) -> Path:
    """Export a run, hold the graphs against it, and write the bundle if they agree.

    Args:
        run: finished, its modules in eval mode on the CPU.
        dest: folder to make.
        precisions: of the model graph, as `parse_precisions` gives them; the first is the bundle's default.
        data: where the run's photographs are, if they have moved; int8 is calibrated and lower precisions are measured
            on them.
        max_drop: points of accuracy that a lower precision may cost; None takes `accuracy.MAX_DROP`.
        probe_images: keep the probe's pictures in the bundle; without them nobody can run the probe again.
        explain: put in what labels are explained with: the read-out, and of a model with attention the graph of it.
        force: replace a bundle that is there.
        threads: for ONNX Runtime.
        tell: gets a line for the user now and then.
        signer: who signs the bundle; None leaves it unsigned.

    Returns:
        The bundle's folder.

    Raises:
        UsageError: E-BUNDLE-EXISTS, E-BUNDLE-DEST, E-PRECISION-..., E-CALIBRATION and what `find_photographs` raises
            before any work is done; E-GRAPH-SIZE.
        GateError: E-GRAPH-CONTRACT, E-PARITY, E-PARITY-EMPTY, E-PARITY-SHAPE, E-ACCURACY; there is no bundle then.
        SystemProblem: the system said no; there is no bundle then.

    """
    target = Path(dest).resolve()
    check_dest(target, force=force)
    lower = _Lower(run, precisions, data=data, max_drop=max_drop, threads=threads, tell=tell)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clean_siblings(target)
        with working_folder(target) as work:
            graphs = _export_graphs(run, work, tell)
            backend = _open(graphs, threads)
            with timed(tell, "compared ONNX Runtime with PyTorch"):
                parity = measure(run, backend)
            for line in parity.lines():
                tell(line)
            gate(parity)
            explaining = _Explaining(run, backend, threads, tell) if explain else None
            listed = files_of(precisions)
            lower.make(work)
            if FP32 not in precisions:  # the default stands where an older runtime looks for the model
                graphs = {name: path for name, path in graphs.items() if name != FILES[FP32][FP32]}
                backend.close()
                backend = _open({**graphs, "model.onnx": work / next(iter(listed.values()))}, threads)
            graphs |= lower.graphs
            files: dict[str, Path | bytes] = {
                **graphs,
                **head_files(run),
                **({} if explaining is None else explaining.make(work)),
                PROBE: make_probe(run, backend, pictures=probe_images).to_bytes(),
            }
            backend.close()
            return write_bundle(
                target,
                manifest=make_manifest(run, graphs, precisions, None if explaining is None else explaining.key),
                files=files,
                generation=run.generation,
                loose={PARITY: parity_file(parity, lower.report, None if explaining is None else explaining.parity)},
                force=force,
                signer=signer,
            )
    except OSError as error:
        raise from_os_error(error, "write the bundle") from error


def _open(graphs: Mapping[str, Path], threads: int) -> OrtBackend:
    """ONNX Runtime over the float32 graphs (file name -> path); `model.onnx` may stand for any precision."""
    found = {name.removesuffix(".onnx"): path for name, path in graphs.items()}
    return OrtBackend({**dict.fromkeys(SMALL_PARTS), **found}, threads)


def head_files(run: Run) -> dict[str, Path | bytes]:
    """What heads are made of on site, beside the graphs: real features by the rule `fit`, statistics by `gaussian`."""
    if run.trained.gaussian is not None:
        return {GAUSSIAN: run.trained.gaussian.to_bytes()}
    return {REPLAY: run.replay.to_bytes()} if run.trained.head_rule == "fit" else {}


class _Explaining:
    """What labels are explained with.

    Attributes:
        key: what the manifest says of it.
        parity: of the graph of attention; None where there is none, or before it is made.

    """

    def __init__(self, run: Run, backend: OrtBackend, threads: int, tell: Tell) -> None:
        self.run, self.threads, self.tell = run, threads, tell
        self.readout = make_readout(run, backend)
        self.graph = explain_graph(run.backbone, run.trained, run.dims.attributes, run.dims.regions)
        self.parity: Parity | None = None
        name, regions = (None, 0) if self.graph is None else (ATTENTION, run.dims.regions)
        self.key: dict[str, Any] = {"readout": READOUT, "graph": name, "regions": regions}
        if self.graph is not None and run.backbone.pixels is not None:
            self.key["centres"] = [float(value) for value in run.backbone.centres()]
        tell(readable(self.readout))

    def make(self, folder: Path) -> dict[str, Path | bytes]:
        """The files, by name; GateError where the graph is not what PyTorch computes."""
        files: dict[str, Path | bytes] = {READOUT: self.readout.to_bytes()}
        if self.graph is None:
            return files
        path = folder / ATTENTION
        with timed(self.tell, f"exported {ATTENTION}"):
            export_graph(self.graph, path, graph_metadata(self.run, ATTENTION))
        backend = OrtBackend({EXPLAIN: path}, self.threads)
        with timed(self.tell, f"compared {ATTENTION} with PyTorch"):
            self.parity = measure_maps(self.run, backend)
        backend.close()
        for line in self.parity.lines():
            self.tell(line)
        gate(self.parity)
        return {**files, ATTENTION: path}


class _Lower:
    """The lower precisions of one export: what they need is found before anything is computed.

    Attributes:
        graphs: file name -> path, once made.
        report: for parity.json; empty when only fp32 is asked for.

    """

    def __init__(
        self,
        run: Run,
        precisions: tuple[str, ...],
        *,
        data: str | None,
        max_drop: float | None,
        threads: int,
        tell: Tell,
    ) -> None:
        self.run, self.precisions, self.max_drop, self.threads, self.tell = run, precisions, max_drop, threads, tell
        self.graphs: dict[str, Path] = {}
        self.report: dict[str, Any] = {}
        if precisions == (FP32,):
            return
        if INT8 in precisions and run.backbone.pixels is None:
            raise no_convolutions()
        self.source = find_photographs(run, data)
        if FP16 in precisions:
            self.half = half_graph(run.backbone, run.trained)
            if not halved(self.half):
                raise UsageError(
                    "E-PRECISION-FP16",
                    "nothing in this model would be in half precision: it was trained on a feature file and has no "
                    "linear layer but what the head needs in float32; leave fp16 out of --precision",
                )
        if INT8 in precisions:
            with timed(tell, "read the training pictures that calibrate int8"):
                self.pictures, self.calibration = calibration_pictures(run, self.source)
            if len(self.pictures) < LEAST:
                tell(f"note: int8 is calibrated on all {len(self.pictures)} pictures; {LEAST} or more are better")

    def make(self, folder: Path) -> None:
        """Write the graphs beside `model.onnx`, and let nothing through that has not passed its gates."""
        if self.precisions == (FP32,):
            return
        if FP16 in self.precisions:
            self._make_half(folder)
        if INT8 in self.precisions:
            self._make_int8(folder)
        keys = files_of((FP32, *(one for one in self.precisions if one != FP32)))
        backends = {key: OrtBackend({"model": folder / name}, self.threads) for key, name in keys.items()}
        head = fold(self.run.generation.head, self.run.generation.table.seen)
        with timed(self.tell, "measured what lower precision costs"):
            accuracy = measure_accuracy(self.run, backends, head, self.source, self.max_drop)
        for backend in backends.values():
            backend.close()
        for line in accuracy.lines():
            self.tell(line)
        accuracy_gate(accuracy)
        self.report["accuracy"] = {
            **accuracy.to_dict(),
            "judged": f"onnxruntime {versions()['onnxruntime']} on the CPU",
        }

    def _make_half(self, folder: Path) -> None:
        (name,) = FILES[FP16].values()
        with timed(self.tell, f"exported {name}"):
            export_graph(self.half, folder / name, graph_metadata(self.run, name))
        backend = OrtBackend({"model": folder / name}, self.threads)
        with timed(self.tell, f"compared {name} with PyTorch"):
            parity = measure_half(self.run, backend, self.half)
        backend.close()
        for line in parity.lines():
            self.tell(line)
        gate(parity)
        self.graphs[name] = folder / name
        self.report["fp16"] = parity.to_dict()

    def _make_int8(self, folder: Path) -> None:
        with timed(self.tell, "quantised the model for int8"):
            found = quantize_graph(
                model_graph(self.run.backbone, self.run.trained),
                onnx.load(folder / FILES[FP32][FP32]),
                self.pictures,
                folder,
                lambda name: graph_metadata(self.run, name),
                threads=self.threads,
                tell=self.tell,
            )
        for one in found:
            self.tell(str(one))
            self.graphs[one.path.name] = one.path
            self.report[one.variant.name] = {"calibration": self.calibration, **one.to_dict()}


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, removed at the end.

    It is named and locked as `write_bundle` does with its own, so that the next export to the same place removes it
    when this process was killed.
    """
    with claimed_folder(lambda: new_sibling(target)) as work:
        try:
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
        "means": means_graph(run.trained, run.dims.attributes),
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


def attribute_ranges(table: ClassTable) -> list[list[float]]:
    """Least and largest raw value of each of the A attributes over the seen classes, which are those of training."""
    known = table.raw[table.seen]
    return [[float(low), float(high)] for low, high in zip(known.min(axis=0), known.max(axis=0), strict=True)]


def versions() -> dict[str, Any]:
    """What the bundle was made with."""
    return {**run_folder.versions(PACKAGES), "opset": OPSET}


def make_probe(run: Run, backend: OrtBackend, *, pictures: bool) -> Probe:
    """The probe's inputs with what the shipped graph makes of them under Generation 1.

    Args:
        run: its first `probe_count` pictures, or rows of features, are taken.
        backend: runs the exported graphs.
        pictures: False leaves the inputs themselves out.

    """
    head = fold(run.generation.head, run.generation.table.seen)
    probe = run.pictures[: run.probe_count]
    parts = [backend.run(probe[start : start + PROBE_BATCH], head) for start in range(0, len(probe), PROBE_BATCH)]
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


def parity_file(parity: Parity, lower: Mapping[str, Any], maps: Parity | None = None) -> bytes:
    """parity.json: the verdict with the versions it holds for.

    Args:
        parity: of the model and the graphs of its head.
        lower: what is said of lower precisions.
        maps: of the graph of attention.

    """
    content = {
        **parity.to_dict(),
        "versions": versions(),
        "torch_threads": torch.get_num_threads(),
        "machine": platform.machine(),
        **({"precisions": dict(lower)} if lower else {}),
        **({} if maps is None else {EXPLAIN: maps.to_dict()}),
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def make_manifest(
    run: Run,
    graphs: Collection[str],
    precisions: tuple[str, ...] = (FP32,),
    explain: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """manifest.json but for what `write_bundle` fills in (docs/formats.md); `graphs` are its ONNX files."""
    trained, port = run.trained, input_port(run.backbone)
    listed = files_of(precisions)
    model = listed.get(FP32, next(iter(listed.values())))
    names = {part: f"{part}.onnx" for part in PARTS[trained.head_rule]} | {"model": model}
    return {
        "method": run.method,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "versions": {**versions(), "training": run.info["versions"]},
        "backbone": make_backbone(run),
        "pixels": make_pixels(run),
        "input": {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)},
        "graphs": {part: name if name in graphs else None for part, name in names.items()},
        **({} if precisions == (FP32,) else {"precisions": listed, "default_precision": precisions[0]}),
        **({} if explain is None else {EXPLAIN: dict(explain)}),
        "dims": make_dims(run),
        "attributes": list(run.generation.table.attributes),
        "attribute_ranges": attribute_ranges(run.generation.table),
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
