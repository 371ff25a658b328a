"""What TensorRT engines cost to build and to keep, and that adding classes leaves them alone; no card is needed.

    python benchmarks/engines.py --work DIR [--methods sc-egg,lisgan] [--precisions fp32,fp16,int8] [--add 100]

For each method a bundle on ResNet-101 at 224 px with 200 classes of 312 attributes is written to DIR, with its default
settings and RANDOM weights: neither the time of a build nor the size of a plan depends on their values, and the
bundles' answers mean nothing. A name such as sc-egg+gaussian is the method's embedder with the Gaussian head, its means
with 8 draws of the method's synthesizer inside where it has one; then means.onnx is built, too. int8 is calibrated on 8
drawn pictures, with no search for layers to leave in float.
Then each precision is built with the TensorRT library that is found (`--trt`), for the compute capabilities given, and
--add classes are added to the bundle: the plan that is found afterwards must be the one that was found before, by its
hash. Figures go to stdout and benchmarks/results/engines.json.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import torch  # noqa: E402

from support.random_resnet import random_resnet101  # noqa: E402
from support.smooth_pictures import draw_smooth  # noqa: E402
from zsl_export.bundle_of_run import _export_graphs, head_files, make_manifest, make_probe, versions  # noqa: E402
from zsl_export.graphs import model_graph  # noqa: E402
from zsl_export.half import half_graph  # noqa: E402
from zsl_export.quantize import TENSORRT, Original, observe, quantisable, quantize, with_shapes  # noqa: E402
from zsl_export.to_onnx import export_graph, quiet  # noqa: E402
from zsl_runtime.backends.ort import OrtBackend  # noqa: E402
from zsl_runtime.bundle.bundle import Bundle  # noqa: E402
from zsl_runtime.bundle.generation import Generation  # noqa: E402
from zsl_runtime.bundle.writing import write_bundle  # noqa: E402
from zsl_runtime.classes.changes import add_classes  # noqa: E402
from zsl_runtime.graphs.parts import SMALL_PARTS  # noqa: E402
from zsl_runtime.head.class_table import ClassTable  # noqa: E402
from zsl_runtime.head.fitting import Replay  # noqa: E402
from zsl_runtime.head.gaussian import ClassMeans, Gaussian  # noqa: E402
from zsl_runtime.head.head import Head  # noqa: E402
from zsl_runtime.head.semantic_rule import SemanticRule  # noqa: E402
from zsl_runtime.machine.threads import usable_cpus  # noqa: E402
from zsl_runtime.trt.build import Shape, build_for_bundle, card_at_hand, choose_capabilities  # noqa: E402
from zsl_runtime.trt.library import find_library  # noqa: E402
from zsl_runtime.trt.store import find, read_plan  # noqa: E402
from zsl_train.head.modules import shipped  # noqa: E402
from zsl_train.means import Shape as MeansShape  # noqa: E402
from zsl_train.methods import METHODS  # noqa: E402
from zsl_train.methods.base import Dims, run_batched  # noqa: E402
from zsl_train.training.run_folder import Run  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.trt.library import Library

RESULTS = ROOT / "benchmarks" / "results" / "engines.json"
GAUSSIAN = "+gaussian"  # behind a method's name
CHOSEN = ("sc-egg", f"sc-egg{GAUSSIAN}", "dcr-gan", "acmr", "lisgan", "sp-aen")
DIMS = Dims(regions=49, channels=2048, attributes=312, word_width=300, classes=200)
SEEN, PICTURES, ROWS = 150, 8, 10  # classes; drawn pictures; replay rows a class
DRAWS = 8  # K, features that a mean is made of: the most that folds choose
FILES = {
    "fp32": ("fp32", "model.onnx"),
    "fp16": ("fp16", "model.fp16.onnx"),
    "int8": ("int8-trt", "model.int8-trt.onnx"),
}


def random_table(prefix: str, count: int, seen: int, seed: int) -> ClassTable:
    """Classes with random attributes; the first `seen` are seen."""
    raw = np.random.default_rng(seed).uniform(0, 1, (count, DIMS.attributes))
    names = tuple(f"{prefix} {i}" for i in range(count))
    return ClassTable(names, np.arange(count) < seen, raw, tuple(f"a{i}" for i in range(DIMS.attributes)))


def random_run(name: str, backbone: torch.nn.Module, pictures: np.ndarray) -> Run:
    """A run of this method, or of its name with GAUSSIAN behind it, that was never trained."""
    torch.manual_seed(0)
    method = METHODS[name.removesuffix(GAUSSIAN)]
    trained = method.build(method.Config(**next(iter(method.PRESETS.values()))), DIMS).eval()
    if name.endswith(GAUSSIAN):
        draws = 0 if trained.synthesizer is None else DRAWS
        gaussian = Gaussian(np.full(SEEN, 0.5), np.full(SEEN, 0.7))
        trained = shipped(trained, MeansShape(SEEN, SEEN, draws), DIMS.attributes, gaussian).eval()
    with torch.no_grad():
        for module in trained.modules().values():
            for parameter in module.buffers():  # what training solves for starts at zero
                if parameter.is_floating_point() and not parameter.any():
                    parameter.normal_(0, 0.02)
    table, rng = random_table("class", DIMS.classes, SEEN, 1), np.random.default_rng(2)
    with torch.inference_mode():
        regions = backbone(torch.from_numpy(pictures)).numpy()
    features = run_batched(trained.embedder, regions)
    labels = np.repeat(np.arange(SEEN, dtype=np.int32), ROWS)
    rows = features[labels % len(features)] * rng.uniform(0.5, 1.5, (len(labels), features.shape[1]))
    replay = Replay(rows.astype(np.float16), labels, table.names[:SEEN])
    weights = tuple(
        rng.normal(0, 0.01, (len(table), view.stop - view.start)).astype(np.float32) for view in trained.views
    )
    head = Head(trained.views, weights, tuple(np.zeros(len(table), np.float32) for _ in weights))
    means = None if trained.gaussian is None else ClassMeans.without_photographs(weights[0])
    return Run(
        recipe={"method": name, "backbone": "resnet101"},
        method=name.removesuffix(GAUSSIAN),
        trained=trained,
        backbone=backbone,  # type: ignore[arg-type]
        dims=DIMS,
        generation=Generation(1, 0, table, head, 0, "export", means=means),
        replay=replay,
        semantic_rule=SemanticRule(),
        scores={},
        pictures=pictures,
        picture_labels=np.zeros(len(pictures), dtype=np.int64),
        probe_count=len(pictures),
        seed=0,
        info={"state": "finished", "versions": {"torch": torch.__version__}},
    )


def write_random_bundle(run: Run, folder: Path, precisions: Sequence[str]) -> Path:
    """The bundle of such a run in `precisions`, without the gates: there is nothing to compare with."""
    work = folder.with_name(f"{folder.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    graphs = _export_graphs(run, work, lambda line: print(line, file=sys.stderr))
    if "fp16" in precisions:
        export_graph(half_graph(run.backbone, run.trained), work / "model.fp16.onnx", {})
    if "int8" in precisions:
        graph = model_graph(run.backbone, run.trained)
        with quiet():
            model = with_shapes(onnx.load(work / "model.onnx"))
            nodes = quantisable(model)
            ranges = observe(model, nodes, run.pictures, usable_cpus()).ranges("minmax")
            quantised = quantize(Original(graph, model, nodes), TENSORRT, ranges, ())
        (work / "model.int8-trt.onnx").write_bytes(quantised.SerializeToString())
    held = {kind: name for precision, (kind, name) in FILES.items() if precision in {"fp32", *precisions}}
    files: dict[str, Any] = {**graphs, **{name: work / name for name in held.values()}}
    engine = OrtBackend({part: graphs.get(f"{part}.onnx") for part in ("model", *SMALL_PARTS)}, usable_cpus())
    files["probe.safetensors"] = make_probe(run, engine, pictures=True).to_bytes()
    engine.close()
    files |= head_files(run)
    manifest = {**make_manifest(run, graphs), "precisions": held, "default_precision": "fp32"}
    bundle = write_bundle(folder, manifest=manifest, files=files, generation=run.generation, force=True)
    shutil.rmtree(work)
    return bundle


def measure(
    bundle: Bundle, library: Library, precision: str, capabilities: Sequence[str], part: str = "model"
) -> dict[str, Any]:
    """Build one engine; figures of it."""
    started = time.perf_counter()
    stored = build_for_bundle(bundle, library, precision, part=part, shape=Shape(), compute_capabilities=capabilities)
    whole = time.perf_counter() - started
    graph = bundle.file(FILES[precision][1] if part == "model" else f"{part}.onnx")
    return {
        "part": part,
        "precision": precision,
        "build_seconds": stored.build_seconds,
        "with_checks_seconds": round(whole, 3),
        "onnx_bytes": graph.stat().st_size,
        "plan_bytes": stored.bytes,
        "plan_sha256": stored.sha256,
    }


def found_hash(bundle: Bundle, library: Library, precision: str, capability: str) -> str:
    """Of the bytes of the plan that would be loaded."""
    classes = len(bundle.current().table)
    stored = find(
        bundle,
        flavour=library.flavour,
        version=library.version,
        compute_capability=capability,
        precision=precision,
        classes=classes,
    )
    return hashlib.sha256(read_plan(stored)).hexdigest()


def run_method(
    name: str, backbone: torch.nn.Module, pictures: np.ndarray, library: Library, options: argparse.Namespace
) -> dict[str, Any]:
    """Bundle, engines, classes added, engines looked for again."""
    capabilities = choose_capabilities(library, options.capabilities, card_at_hand())
    run = random_run(name, backbone, pictures)
    bundle = Bundle.open(write_random_bundle(run, options.work / name, options.precisions))
    engines = []
    for precision in options.precisions:
        engines.append(measure(bundle, library, precision, capabilities))
        print(f"{name} {json.dumps(engines[-1])}", flush=True)
    parts = []
    if run.trained.means is not None:
        parts.append(measure(bundle, library, "fp32", capabilities, "means"))
        print(f"{name} {json.dumps(parts[-1])}", flush=True)
    before = {one: found_hash(bundle, library, one, capabilities[0]) for one in options.precisions}
    started = time.perf_counter()
    add_classes(bundle, random_table("new", options.add, 0, 3))
    adding = time.perf_counter() - started
    after = {one: found_hash(bundle, library, one, capabilities[0]) for one in options.precisions}
    assert after == before == {one["precision"]: one["plan_sha256"] for one in engines}, f"{name}: another plan"
    result = {
        "method": name,
        "compute_capabilities": list(capabilities),
        "engines": engines,
        "small_engines": parts,
        "classes_before": DIMS.classes,
        "classes_after": len(bundle.current().table),
        "adding_seconds": round(adding, 3),
        "same_plans_after_adding": after == before,
    }
    print(f"{name}: {result['classes_after']} classes, the same {len(after)} plans", flush=True)
    if not options.keep:
        shutil.rmtree(bundle.path)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the bundles")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(CHOSEN))
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=["fp32", "fp16", "int8"])
    parser.add_argument("--add", type=int, default=100, help="classes to add")
    parser.add_argument("--trt", default="auto", help="auto, tensorrt or rtx")
    parser.add_argument("--capabilities", type=lambda text: tuple(text.split(",")), default=(), help="such as 8.6,8.9")
    parser.add_argument("--keep", action="store_true", help="keep the bundles")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    library = find_library(options.trt)
    pictures = draw_smooth(PICTURES, 224)
    backbone = random_resnet101(pictures)
    results = [run_method(name, backbone, pictures, library, options) for name in options.methods]
    card = card_at_hand()
    report = {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "library": str(library),
        "card": None if card is None else card.name,
        "machine": platform.machine(),
        "usable_cpus": usable_cpus(),
        "load_average": os.getloadavg()[0],
        "versions": versions(),
        "weights": "random; ResNet-101 at 224 px, default settings of each method, 200 classes of 312 attributes",
        "batches": "1..8 (best 1) and 1..64 (best 64), up to 20000 classes",
        "methods": results,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
