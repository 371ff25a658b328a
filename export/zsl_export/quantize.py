"""int8: a float32 model graph becomes static QDQ graphs, per channel, calibrated on training photographs.

Two variants, because the two kinds of library ask for different files:

- `CPU`: asymmetric uint8 activations, symmetric int8 weights, int32 biases, activation functions folded into the
  ranges; ONNX Runtime turns convolutions and shortcuts into integer kernels (VNNI). Weights use all 8 bits: processors
  without VNNI may saturate sums of two products, which the accuracy gate of the export would show on such a machine.
- `TENSORRT`: symmetric int8 for both and float biases, since TensorRT's parser takes no zero points and no quantised
  biases. The output of a convolution is quantised behind its activation function, where TensorRT fuses the two.

Only the convolutions of the backbone and what stands directly behind them are quantised; attention, compression, lift
and head stay in float32. What is chosen (ranges, layers left in float) is chosen on training photographs alone, in at
most `MAX_CANDIDATES` tries.
"""

from __future__ import annotations

import copy
import logging
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zsl_export.to_onnx import check, strip
from zsl_runtime.backends.ort import SILENT, OrtBackend, import_onnxruntime
from zsl_runtime.errors import UsageError
from zsl_runtime.machine.storage import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zsl_export.graphs import Graph
    from zsl_runtime.arrays import Floats

    Pictures = NDArray[np.uint8] | NDArray[np.float32]

BATCH = 4  # pictures at once while calibrating: bounds memory, whatever the picture side
NOISE_PICTURES = 8  # for the noise of single layers
CHOICE_PICTURES = 48  # for the comparison of candidates
RANGES = ("minmax", "mean")
EXCLUDED = (2, 4, 8)  # layers left in float, the noisiest first
QUARTER = 4  # at most one layer in so many is left in float
WORTH = 0.8  # leaving more layers in float must take the error below this share of what it was
MAX_CANDIDATES = len(RANGES) + len(EXCLUDED)
FOLLOWING = ("Clip", "Relu", "MaxPool")  # behind a convolution, on 8-bit numbers as good as on floats


@dataclass(frozen=True)
class Variant:
    """One kind of int8 file.

    Attributes:
        name: key of the manifest's `precisions`.
        symmetric: int8 activations without zero point, otherwise uint8 with one.
        op_types: operators that are quantised.
        options: of ONNX Runtime's quantiser.

    """

    name: str
    symmetric: bool
    op_types: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()


CPU = Variant("int8-cpu", symmetric=False, op_types=("Conv", "Add", *FOLLOWING))
TENSORRT = Variant(
    "int8-trt",
    symmetric=True,
    op_types=("Conv", "Add"),
    options=(("QuantizeBias", False), ("OpTypesToExcludeOutputQuantization", ("Conv", "Add"))),
)
VARIANTS = (CPU, TENSORRT)


@dataclass(frozen=True)
class Original:
    """The float32 model graph.

    Attributes:
        graph: its contract.
        model: with the type of every tensor.
        nodes: those that 8 bits suit.

    """

    graph: Graph
    model: onnx.ModelProto
    nodes: Sequence[onnx.NodeProto]


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest value of every activation, picture by picture.

    Attributes:
        names: T tensors of the graph.
        low: (n, T) float32.
        high: (n, T) float32.

    """

    names: tuple[str, ...]
    low: Floats
    high: Floats

    def ranges(self, how: str) -> dict[str, tuple[float, float]]:
        """Tensor -> (lowest, highest) that 8 bits should hold.

        Args:
            how: ``minmax``, the extremes of all pictures; ``mean``, the means of the pictures' extremes, which cut off
                what is rare (the default of OpenVINO's NNCF).

        """
        low, high = (
            (self.low.min(axis=0), self.high.max(axis=0))
            if how == "minmax"
            else (self.low.mean(axis=0), self.high.mean(axis=0))
        )
        return {name: (float(a), float(b)) for name, a, b in zip(self.names, low, high, strict=True)}


@dataclass(frozen=True)
class Candidate:
    """One way to quantise that was tried.

    Attributes:
        ranges: one of RANGES.
        floats: names of the convolutions left in float32.
        error: of the features, as `feature_error`.

    """

    ranges: str
    floats: tuple[str, ...]
    error: float


@dataclass(frozen=True)
class Quantized:
    """What was made of the float32 graph.

    Attributes:
        variant: which kind.
        path: of the ONNX file.
        layers: convolutions in the graph, quantised or not.
        chosen: how.
        tried: all that was compared, in order; `chosen` is one of them.
        noise: convolution -> its own noise over its signal, noisiest first.

    """

    variant: Variant
    path: Path
    layers: int
    chosen: Candidate
    tried: tuple[Candidate, ...]
    noise: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for parity.json."""
        return {
            "activations": "int8, symmetric" if self.variant.symmetric else "uint8, asymmetric",
            "weights": "int8, symmetric, per output channel",
            "operators": list(self.variant.op_types),
            "reduce_range": False,
            "ranges": self.chosen.ranges,
            "layers": self.layers,
            "layers_in_float": list(self.chosen.floats),
            "feature_error": self.chosen.error,
            "tried": [
                {"ranges": one.ranges, "layers_in_float": len(one.floats), "feature_error": one.error}
                for one in self.tried
            ],
            "noisiest_layers": dict(list(self.noise.items())[: max(EXCLUDED)]),
        }

    def __str__(self) -> str:
        quantised = self.layers - len(self.chosen.floats)
        return (
            f"{self.path.name}: {quantised} of {self.layers} convolutions in int8, ranges by {self.chosen.ranges}, "
            f"features off by {self.chosen.error:.1%} of their spread on training pictures ({len(self.tried)} tried)"
        )


def quantize_graph(
    graph: Graph,
    model: onnx.ModelProto,
    pictures: Pictures,
    folder: Path,
    metadata: Callable[[str], Mapping[str, str]],
    *,
    threads: int,
    tell: Callable[[str], None],
) -> tuple[Quantized, ...]:
    """Write `model.int8-cpu.onnx` and `model.int8-trt.onnx` into `folder`.

    Args:
        graph: the contract of the model graph.
        model: the float32 model graph.
        pictures: (n, P, P, 3) uint8 training photographs, the classes in turns: all of them calibrate, the first few
            choose.
        folder: to write to.
        metadata: file name -> its metadata_props.
        threads: for ONNX Runtime.
        tell: gets a line for the user now and then.

    Raises:
        UsageError: E-PRECISION-INT8 when the graph has no convolution.
        GateError: E-GRAPH-CONTRACT when a quantised graph does not keep the contract.
        OSError: the system refused a file.

    """
    model = with_shapes(model)
    nodes = quantisable(model)
    if not nodes:
        raise no_convolutions()
    extremes = observe(model, nodes, pictures, threads)
    tell(f"calibrated {len(extremes.names)} activations on {len(pictures)} training pictures")
    search = _Search(Original(graph, model, nodes), extremes, pictures, folder, threads)
    return tuple(search.run(variant, folder / f"model.{variant.name}.onnx", metadata) for variant in VARIANTS)


def no_convolutions() -> UsageError:
    """What is wrong with int8 for a model of features."""
    return UsageError(
        "E-PRECISION-INT8",
        "int8 quantises the convolutions of a backbone, and a model trained on a feature file has none; leave int8 out "
        "of --precision",
    )


class _Search:
    """The bounded search over ranges and layers left in float."""

    def __init__(self, original: Original, extremes: Extremes, pictures: Pictures, folder: Path, threads: int) -> None:
        self.original, self.extremes, self.threads = original, extremes, threads
        self.pictures = pictures[:CHOICE_PICTURES]
        float_file = folder / "float.onnx"
        write_whole(float_file, original.model.SerializeToString())
        self.reference = self._features(float_file)
        float_file.unlink()

    def run(self, variant: Variant, path: Path, metadata: Callable[[str], Mapping[str, str]]) -> Quantized:
        """Try, choose, and write the best to `path`."""
        found = [self._try(variant, how, (), path) for how in RANGES]
        best = min(found, key=lambda one: one.error)
        ranges = self.extremes.ranges(best.ranges)
        noise = layer_noise(self.original, variant, ranges, self.pictures[:NOISE_PICTURES], self.threads)
        for count in EXCLUDED:
            if count > len(noise) // QUARTER:
                break
            more = self._try(variant, best.ranges, tuple(noise)[:count], path)
            found.append(more)
            if more.error < WORTH * best.error:
                best = more
        # Written once more: the file of the last candidate need not be that of the best.
        quantised = quantize(self.original, variant, ranges, best.floats)
        helper.set_model_props(quantised, dict(metadata(path.name)))
        write_whole(path, quantised.SerializeToString(deterministic=True))
        return Quantized(variant, path, len(noise), best, tuple(found), noise)

    def _try(self, variant: Variant, how: str, floats: tuple[str, ...], path: Path) -> Candidate:
        model = quantize(self.original, variant, self.extremes.ranges(how), floats)
        write_whole(path, model.SerializeToString())
        return Candidate(how, floats, feature_error(self.reference, self._features(path)))

    def _features(self, path: Path) -> Floats:
        # With ONNX Runtime's own rewriting on, as users run it: what that gets wrong must count against a candidate.
        # 1.31.1 does: a float depthwise convolution and its Clip before a quantised convolution (features off by 47 %
        # of their spread in place of 17 %).
        backend = OrtBackend({"model": path}, self.threads)
        starts = range(0, len(self.pictures), BATCH)
        features = np.concatenate([backend.features(self.pictures[start : start + BATCH]) for start in starts])
        backend.close()
        return features


def feature_error(reference: Floats, given: Floats) -> float:
    """How far features (n, F) are off: root mean square length of the error over that of the spread about the mean."""
    left, right = reference.astype(np.float64), given.astype(np.float64)
    spread = np.square(left - left.mean(axis=0)).sum()
    error = np.square(left - right).sum()
    return float(np.sqrt(error / spread)) if spread > 0 else float(error > 0)


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with the type of every tensor, which the quantiser asks for.

    The exporter has folded BatchNorm, padding and constants already: nothing else is left of quant_pre_process.
    """
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def quantisable(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Convolutions with fixed weights, and activations, pooling and shortcuts that hang on convolutions alone."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    produced: set[str] = set()
    found = []
    for node in model.graph.node:
        takes = (
            (node.op_type == "Conv" and node.input[1] in fixed)
            or (node.op_type in FOLLOWING and node.input[0] in produced)
            or (node.op_type == "Add" and all(name in produced for name in node.input))
        )
        if takes:
            produced.add(node.output[0])
            found.append(node)
    return found if any(node.op_type == "Conv" for node in found) else []


def activations(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Every tensor that goes into or comes out of the nodes, weights and limits left out, in order of appearance."""
    names: dict[str, None] = {}
    for node in nodes:
        names |= dict.fromkeys(node.input if node.op_type == "Add" else node.input[:1])
        names |= dict.fromkeys(node.output[:1])
    return list(names)


def observe(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], pictures: Pictures, threads: int) -> Extremes:
    """The extremes of every activation on every picture; of the activations themselves nothing is kept."""
    names = activations(nodes)
    builder = _Builder(model)
    ends = []
    for op in ("ReduceMin", "ReduceMax"):
        columns = [builder.add(op, [builder.flat(name), builder.one_axis()], keepdims=1) for name in names]
        ends.append(builder.add("Concat", columns, axis=1))
    low, high = run_blocks(builder.finish(ends), pictures, threads)
    return Extremes(tuple(names), low, high)


def layer_noise(
    original: Original,
    variant: Variant,
    ranges: Mapping[str, tuple[float, float]],
    pictures: Pictures,
    threads: int,
) -> dict[str, float]:
    """Noise over signal of each convolution were it alone in int8: every one is fed its exact float32 input.

    One pass over one graph, in which each convolution has a twin with quantised input and weights.

    Returns:
        Name -> sum of squared errors over sum of squares, behind its activation function; noisiest first.

    """
    builder = _Builder(original.model)
    weights = {tensor.name: tensor for tensor in original.model.graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in original.model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    convolutions = [node for node in original.nodes if node.op_type == "Conv"]
    noise: list[str] = []
    signal: list[str] = []
    for node in convolutions:
        twin = copy.deepcopy(node)
        twin.input[0] = builder.rounded(node.input[0], ranges[node.input[0]], symmetric=variant.symmetric)
        twin.input[1] = builder.constant(rounded_weights(numpy_helper.to_array(weights[node.input[1]])))
        output, end = builder.keep(twin), node.output[0]
        behind = users.get(end, [])
        if len(behind) == 1 and behind[0].op_type in {"Clip", "Relu"}:
            function = copy.deepcopy(behind[0])
            function.input[0] = output
            output, end = builder.keep(function), behind[0].output[0]
        error = builder.add("Sub", [output, end])
        for name, sums in ((error, noise), (end, signal)):
            sums.append(builder.add("ReduceSumSquare", [builder.flat(name), builder.one_axis()], keepdims=1))
    ends = [builder.add("Concat", sums, axis=1) for sums in (noise, signal)]
    error, power = (rows.sum(axis=0, dtype=np.float64) for rows in run_blocks(builder.finish(ends), pictures, threads))
    share = error / np.maximum(power, np.finfo(np.float64).tiny)
    order = np.argsort(-share, kind="stable")
    return {convolutions[int(i)].name: float(share[i]) for i in order}


def rounded_weights(weight: NDArray[np.floating[Any]]) -> Floats:
    """Weights (O, ...) as symmetric int8 with one scale an output channel holds them, in float32."""
    scale = np.abs(weight).reshape(len(weight), -1).max(axis=1).reshape(-1, *[1] * (weight.ndim - 1)) / 127
    scale = np.where(scale > 0, scale, 1)
    return (np.clip(np.rint(weight / scale), -127, 127) * scale).astype(np.float32)


def scale_of(low: float, high: float, *, symmetric: bool) -> tuple[float, int]:
    """Scale and zero point by which 8 bits hold a range with zero in it: int8 if symmetric, otherwise uint8."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        return max(-low, high, 1e-30) / 127, 0
    scale = max(high - low, 1e-30) / 255
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def quantize(
    original: Original,
    variant: Variant,
    ranges: Mapping[str, tuple[float, float]],
    floats: Collection[str],
) -> onnx.ModelProto:
    """The model in 8 bits, but for the convolutions named in `floats`; it keeps its contract.

    Raises:
        GateError: E-GRAPH-CONTRACT.

    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    limits = {name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ranges.items()}
    chosen = [node.name for node in original.nodes if node.op_type in variant.op_types and node.name not in floats]
    with _no_warnings(), _names_by_chance():
        quantizer = QDQQuantizer(
            copy.deepcopy(original.model),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if variant.symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=chosen,
            nodes_to_exclude=[],
            op_types_to_quantize=list(variant.op_types),
            extra_options={"ActivationSymmetric": variant.symmetric, "WeightSymmetric": True, **dict(variant.options)},
        )
        quantizer.quantize_model()
    result: onnx.ModelProto = _sorted(quantizer.model.model)
    used = {node.domain for node in result.graph.node}
    kept = [entry for entry in result.opset_import if entry.domain in used]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    del result.graph.value_info[:]
    strip(result)
    check(result, original.graph)
    return result


@contextmanager
def _no_warnings() -> Iterator[None]:
    """The quantiser logs to the root logger what concerns its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _names_by_chance() -> Iterator[None]:
    """The quantiser's temporary files get names of the network card's address, for which the system is asked."""
    before = uuid.uuid1
    uuid.uuid1 = lambda *_given: uuid.uuid4()
    try:
        yield
    finally:
        uuid.uuid1 = before


class _Builder:
    """A copy of a model's graph to which nodes are added, and which ends where it is told."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._nodes = list(model.graph.node)
        self._constants = list(model.graph.initializer)
        self._count = 0
        self._flat: dict[str, str] = {}
        self._axis = ""

    def name(self) -> str:
        """A name that no exporter gives."""
        self._count += 1
        return f"zsl.quantize.{self._count}"

    def constant(self, value: NDArray[Any]) -> str:
        """A constant of this value."""
        name = self.name()
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def one_axis(self) -> str:
        """The constant [1]."""
        self._axis = self._axis or self.constant(np.array([1], np.int64))
        return self._axis

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one output; returns its name."""
        name = self.name()
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def keep(self, node: onnx.NodeProto) -> str:
        """A changed copy of a node of the model, under a name of its own; returns the name of its output."""
        name = self.name()
        node.name = node.output[0] = name
        self._nodes.append(node)
        return name

    def flat(self, name: str) -> str:
        """The tensor as (N, everything else)."""
        if name not in self._flat:
            self._flat[name] = self.add("Flatten", [name], axis=1)
        return self._flat[name]

    def rounded(self, name: str, limits: tuple[float, float], *, symmetric: bool) -> str:
        """The tensor as 8 bits hold it."""
        scale, zero = scale_of(*limits, symmetric=symmetric)
        kind = np.int8 if symmetric else np.uint8
        pair = [self.constant(np.array(scale, np.float32)), self.constant(np.array(zero, kind))]
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [name, *pair]), *pair])

    def finish(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """A model with these outputs, of what they need and nothing else."""
        producers = {name: node for node in self._nodes for name in node.output}
        needed: set[str] = set()
        open_names = list(outputs)
        while open_names:
            name = open_names.pop()
            if name not in needed:
                needed.add(name)
                open_names += [one for one in producers[name].input if one] if name in producers else []
        graph = helper.make_graph(
            [node for node in self._nodes if any(name in needed for name in node.output)],
            "observed",
            [port for port in self._model.graph.input if port.name in needed],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [tensor for tensor in self._constants if tensor.name in needed],
        )
        model = helper.make_model(graph, opset_imports=list(self._model.opset_import))
        model.ir_version = self._model.ir_version
        # Twins follow the nodes whose outputs they take only by accident: ONNX wants them sorted.
        return _sorted(model)


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its nodes in an order in which every input is there before it is used."""
    known = {"", *(port.name for port in model.graph.input), *(tensor.name for tensor in model.graph.initializer)}
    waiting, ordered = list(model.graph.node), []
    while waiting:
        ready = [node for node in waiting if all(name in known for name in node.input)]
        assert ready, "a graph without cycles always has a node that can run"
        ordered += ready
        known |= {name for node in ready for name in node.output}
        done = {node.name for node in ready}
        waiting = [node for node in waiting if node.name not in done]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    return model


def run_blocks(model: onnx.ModelProto, pictures: Pictures, threads: int) -> list[Floats]:
    """All outputs of a model with one input on pictures (n, ...), in blocks of `BATCH`."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = SILENT
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    (port,) = session.get_inputs()
    starts = range(0, len(pictures), BATCH)
    blocks = [session.run(None, {port.name: pictures[start : start + BATCH]}) for start in starts]
    return [np.concatenate(column) for column in zip(*blocks, strict=True)]
