"""The gate: what ONNX Runtime computes from the exported graphs against what PyTorch computes from the run.

The reference is put together from the run's modules one by one, the head in NumPy float64, so that a mistake in
`zsl_export.graphs` fails the gate as surely as one in the exporter. Batch sizes and class counts differ from those of
the exported example: a graph in which they are baked fails here, not at the user's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zsl_export.compare import (
    BATCH_SIZES,
    FLOAT16,
    FLOAT32,
    MIN_SCORE_SCALE,
    Agreement,
    Comparison,
    Limits,
    agree,
    batches,
    compare,
    reference_scores,
    shape_error,
)
from zsl_export.graphs import EXAMPLE_SIZES
from zsl_export.half import emulate, run_emulated
from zsl_runtime.errors import GateError
from zsl_runtime.head.head import FoldedHead, fold
from zsl_train.head.modules import run_means
from zsl_train.methods.base import run_batched, run_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_export.graphs import Graph
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.backends.onnx_graphs import GraphBackend
    from zsl_train.training.run_folder import Run

REMEDIES = {
    "float32": "report this line, it is a bug of zsl-deploy or of one of the two",
    "float16": "the model needs float32; leave fp16 out of --precision",
}
REFERENCE_BATCH = 8  # pictures at once in PyTorch: not one of the sizes above
RANDOM_ROWS = 70  # not a sum of whole rounds of the batch sizes, so that a remainder is left
EXTRA_CLASSES = 5
# Class means by regression are sums of a term for each seen class that nearly cancel: with the widest kernel and the
# smallest ridge that folds may choose, two libraries round 1e-4 of the scale apart. Ten times that is a hundredth of
# the spread within a class, far from any answer; a wrong graph is off by much more.
MEANS = replace(FLOAT32, row_error=1e-3)
MAPS = replace(FLOAT32, row_error=1e-3)  # attention is an exponential of what features are; it is looked at, not scored


@dataclass(frozen=True)
class Section:
    """What was compared of one graph.

    Attributes:
        graph: name of the graph's file.
        inputs: how many rows of which kind went in.
        batch_sizes: batch size -> number of batches.
        classes: C of the head that was used; None for graphs without a head.
        results: the comparisons.

    """

    graph: str
    inputs: dict[str, int]
    batch_sizes: dict[int, int]
    classes: int | None
    results: tuple[Comparison | Agreement, ...]

    def to_dict(self, limits: Limits) -> dict[str, Any]:
        """Plain data for parity.json; a result says its limits where they are not those of the whole verdict."""
        plain = asdict(self)
        for result in plain["results"]:
            if result.get("limits") == asdict(limits):
                del result["limits"]
        return plain


@dataclass(frozen=True)
class Parity:
    """The verdict of the gate.

    Attributes:
        library: name and version of what was judged.
        sections: one per graph and head.
        precision: what the graphs compute in.
        limits: of the gate.

    """

    library: str
    sections: tuple[Section, ...]
    precision: str = "float32"
    limits: Limits = FLOAT32

    def faults(self) -> list[str]:
        """What did not pass, in words."""
        return [
            f"{section.graph} {result}" for section in self.sections for result in section.results if not result.passed
        ]

    def lines(self) -> list[str]:
        """The table shown to the user: a line per graph, an indented line per comparison."""
        out = []
        for section in self.sections:
            inputs = ", ".join(f"{count} {kind}" for kind, count in section.inputs.items())
            classes = "" if section.classes is None else f", {section.classes} classes"
            sizes = "/".join(str(size) for size in sorted(section.batch_sizes))
            out.append(f"{section.graph}: {inputs}, batches of {sizes}{classes}")
            out += [f"  {'ok  ' if result.passed else 'FAIL'} {result}" for result in section.results]
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain data for parity.json."""
        return {
            "passed": not self.faults(),
            "reference": "PyTorch float32 on the CPU, module by module; the head in NumPy float64",
            "judged": f"{self.library}, {self.precision} on the CPU",
            "traced_at": EXAMPLE_SIZES,
            "limits": {
                "row_error": self.limits.row_error,
                "cosine_min": self.limits.cosine_min,
                "tie_margin_of_scale": self.limits.tie_margin,
                "score_scale_min": MIN_SCORE_SCALE,
            },
            "sections": [section.to_dict(self.limits) for section in self.sections],
        }


def gate(parity: Parity) -> None:
    """Let nothing through that has not passed: GateError E-PARITY names what is off."""
    faults = parity.faults()
    if faults:
        raise GateError(
            "E-PARITY",
            f"{parity.library} and PyTorch {torch.__version__} disagree: {'; '.join(faults)}; no bundle was written: "
            f"{REMEDIES[parity.precision]}",
        )


def measure(run: Run, backend: Backend) -> Parity:
    """Compare the exported graphs with the run they came from.

    Args:
        run: the run; all its pictures are compared.
        backend: runs the exported graphs.

    Raises:
        GateError: E-PARITY-EMPTY when the run keeps nothing to compare; E-PARITY-SHAPE as in `compare`.

    """
    folded = fold(run.generation.head, run.generation.table.seen)
    features, lifted = reference_rows(run)
    some = slice(0, sum(BATCH_SIZES) + 1)  # every batch size once, and a remainder
    sections = [
        _model_section(run, backend, folded, features, lifted),
        _model_section(run, backend, other_head(folded, run.seed), features[some], lifted[some]),
    ]
    sections += _small_sections(run, backend, features)
    return Parity(backend.library, tuple(sections))


def measure_maps(run: Run, backend: GraphBackend) -> Parity:
    """Compare the graph of attention with the run it came from, on some pictures; arguments and errors as `measure`.

    No label depends on it, and what it shares with the model graph is compared there.
    """
    embedder = run.trained.embedder
    some = run.pictures[: sum(BATCH_SIZES) + 1]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(some), REFERENCE_BATCH):
            pictures = torch.from_numpy(np.ascontiguousarray(some[start : start + REFERENCE_BATCH]))
            parts.append(embedder.attend(run.backbone(pictures)).numpy())  # type: ignore[operator]
    wanted = np.concatenate(parts)
    blocks = batches(len(wanted))
    given = np.concatenate([backend.maps(some[block]) for block in blocks])
    section = Section(
        graph="explain.onnx",
        inputs={"pictures": len(wanted)},
        batch_sizes=_sizes(blocks),
        classes=None,
        results=(compare("maps", *(maps.reshape(len(maps), -1) for maps in (wanted, given)), limits=MAPS),),
    )
    return Parity(backend.library, (section,))


def _small_sections(run: Run, backend: Backend, features: NDArray[np.float32]) -> list[Section]:
    """The graphs that heads are made with, as far as there are any; `features` (N, F) are those of the pictures."""
    semantic, noise = _random_rows(run)
    trained, sections = run.trained, []
    if trained.rows is not None:
        wanted = np.column_stack(run_rows(trained.rows, semantic))
        # The biases together with the weights: they may all be zero, and zeros alone have no scale.
        columns = {"weight": slice(-1), "weight and bias": slice(None)}
        sections.append(
            _rows_section("rows.onnx", lambda x: np.column_stack(backend.rows(x)), (semantic,), wanted, columns)
        )
    if trained.means is not None:
        wanted = run_means(trained.means, semantic)
        sections.append(
            _rows_section("means.onnx", backend.means, (semantic,), wanted, {"means": slice(None)}, limits=MEANS)
        )
        sections.append(_prior_section(run, backend))
    if trained.synthesizer is not None:
        features = run_batched(trained.synthesizer, semantic, noise)
        columns = {"features": slice(None)}
        sections.append(_rows_section("synthesizer.onnx", backend.synthesize, (semantic, noise), features, columns))
    if trained.lift is not None:
        views = {f"view {view.name}": slice(view.start, view.stop) for view in trained.views}
        features = features[: len(semantic)]  # synthetic ones, or of pictures where nothing is synthesized
        lifted = run_batched(trained.lift, features)
        sections.append(_rows_section("lift.onnx", backend.lift, (features,), lifted, views))
    return sections


def measure_half(run: Run, backend: Backend, graph: Graph) -> Parity:
    """Compare the half-precision model graph with the run it came from, which is float32.

    Twice: as ONNX Runtime computes it, and rounded to half precision behind every layer, as a GPU does.

    Args:
        run: the run; all its pictures are compared.
        backend: runs `model.fp16.onnx`.
        graph: what it was exported from (`zsl_export.half`).

    Raises:
        GateError: as `measure`.

    """
    folded = fold(run.generation.head, run.generation.table.seen)
    features, lifted = reference_rows(run)
    some = slice(0, sum(BATCH_SIZES) + 1)
    rounded, rounded_lifted = run_emulated(emulate(graph), run.pictures, REFERENCE_BATCH)
    wanted, given = (reference_scores(rows, folded) for rows in (lifted, np.nan_to_num(rounded_lifted)))
    emulated = Section(
        graph="model.fp16.onnx, every layer rounded in PyTorch",
        inputs={"probe pictures": run.probe_count, "other pictures": len(run.pictures) - run.probe_count},
        batch_sizes=_sizes(batches(len(run.pictures), (REFERENCE_BATCH,))),
        classes=len(folded.bias),
        results=(
            compare("features", features, rounded, limits=FLOAT16),
            compare("lifted features", lifted, rounded_lifted, limits=FLOAT16),
            agree("best class", wanted, given, FLOAT16),
        ),
    )
    sections = (
        _model_section(run, backend, folded, features, lifted, name="model.fp16.onnx", limits=FLOAT16),
        _model_section(
            run,
            backend,
            other_head(folded, run.seed),
            features[some],
            lifted[some],
            name="model.fp16.onnx",
            limits=FLOAT16,
        ),
        emulated,
    )
    return Parity(backend.library, sections, "float16", FLOAT16)


def reference_rows(run: Run) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What PyTorch makes of all pictures of the run: features (N, F) and lifted features (N, D), float32."""
    if run.probe_count < 1 or not len(run.pictures):
        raise GateError(
            "E-PARITY-EMPTY",
            f"the run keeps {len(run.pictures)} pictures, {run.probe_count} of them for the probe, and both must be at "
            "least 1 to compare the graphs with it; train again with probe_pictures above 0",
        )
    trained = run.trained
    features, lifted = [], []
    with torch.inference_mode():
        for start in range(0, len(run.pictures), REFERENCE_BATCH):
            pictures = torch.from_numpy(np.ascontiguousarray(run.pictures[start : start + REFERENCE_BATCH]))
            rows = trained.embedder(run.backbone(pictures))
            features.append(rows.numpy())
            lifted.append((rows if trained.lift is None else trained.lift(rows)).numpy())
    return np.concatenate(features), np.concatenate(lifted)


def other_head(head: FoldedHead, seed: int) -> FoldedHead:
    """A head of `EXTRA_CLASSES` more classes, one in three left out: what `add` and a class filter make of a head.

    Args:
        head: (C, D) folded.
        seed: of the new rows, which are old rows shuffled column by column: new directions at the old scale.

    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(head.bias), EXTRA_CLASSES)
    count = len(head.bias) + EXTRA_CLASSES
    class_bias = np.concatenate([head.class_bias, np.zeros(EXTRA_CLASSES, np.float32)])
    class_bias[np.arange(count) % 3 == 1] = -np.inf
    return FoldedHead(
        weight=np.concatenate([head.weight, rng.permuted(head.weight[rows], axis=1)]),
        bias=np.concatenate([head.bias, head.bias[rows]]),
        class_bias=class_bias,
    )


def _model_section(
    run: Run,
    backend: Backend,
    head: FoldedHead,
    features: NDArray[np.float32],
    lifted: NDArray[np.float32],
    *,
    name: str = "model.onnx",
    limits: Limits = FLOAT32,
) -> Section:
    """The model graph under one head, on the pictures that the reference rows belong to."""
    count = len(features)
    blocks = batches(count)
    pairs = [backend.run(run.pictures[block], head) for block in blocks]
    scores = np.concatenate([scores for scores, _ in pairs])
    wanted = reference_scores(lifted, head)
    probe = min(run.probe_count, count)
    return Section(
        graph=name,
        inputs={"probe pictures": probe, "other pictures": count - probe},
        batch_sizes=_sizes(blocks),
        classes=len(head.bias),
        results=(
            compare("features", features, np.concatenate([rows for _, rows in pairs]), limits=limits),
            compare("scores", wanted, scores, min_scale=MIN_SCORE_SCALE, limits=limits),
            agree("best class", wanted, scores, limits),
        ),
    )


def _rows_section(
    graph: str,
    apply: Callable[..., NDArray[np.float32]],
    inputs: tuple[NDArray[np.float32], ...],
    wanted: NDArray[np.float32],
    columns: Mapping[str, slice],
    *,
    kind: str = "random rows",
    limits: Limits = FLOAT32,
) -> Section:
    """A graph from rows to rows, its named columns compared one by one: views differ in scale."""
    blocks = batches(len(wanted))
    given = np.concatenate([apply(*(rows[block] for rows in inputs)) for block in blocks])
    if given.shape != wanted.shape:
        raise shape_error(graph, wanted.shape, given.shape)
    return Section(
        graph=graph,
        inputs={kind: len(wanted)},
        batch_sizes=_sizes(blocks),
        classes=None,
        results=tuple(compare(name, wanted[:, part], given[:, part], limits=limits) for name, part in columns.items()),
    )


def _prior_section(run: Run, backend: Backend) -> Section:
    """The means that Generation 1 rests on against what the graph tells of its classes: `refit` must find them."""
    generation = run.generation
    assert generation.means is not None
    semantic, prior = run.semantic_rule.apply(generation.table.raw), generation.means.prior
    columns = {"means of generation 1": slice(None)}
    return _rows_section("means.onnx", backend.means, (semantic,), prior, columns, kind="classes", limits=MEANS)


def _random_rows(run: Run) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Semantic vectors of random classes (n, A) and noise (n, Z), seeded."""
    rng = np.random.default_rng(run.seed)
    table = run.generation.table
    semantic = run.semantic_rule.apply(table.raw)[rng.integers(0, len(table), RANDOM_ROWS)]
    return semantic, rng.standard_normal((RANDOM_ROWS, run.trained.noise_width), dtype=np.float32)


def _sizes(blocks: Sequence[slice]) -> dict[int, int]:
    return dict(Counter(block.stop - block.start for block in blocks))
