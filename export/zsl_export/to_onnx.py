"""One graph to one ONNX file that keeps its contract, written quietly and without traces of the machine it ran on."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx
import torch

from zsl_export.shapes import drop_expansions
from zsl_runtime.errors import ArtefactError, GateError, UsageError
from zsl_runtime.graphs.check import check_graph
from zsl_runtime.graphs.ports import Ports
from zsl_runtime.machine.storage import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from zsl_export.graphs import Graph
    from zsl_runtime.graphs.ports import Port

# 20 is what the TensorRT and ONNX Runtime quantisers of the day take without complaint (8-bit types grow at 21).
OPSET = 20
# Noise is an input and BatchNorm is folded: with these in a graph neither parity nor a refit could be reproduced.
UNWANTED_OPS = frozenset(
    {
        "BatchNormalization",
        "Dropout",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
    }
)
# A protobuf message, and with it a self-contained ONNX file, ends at 2 GiB; a bundle's graphs are one file each.
MAX_BYTES = 2**31 - 1
_ONNX_DTYPES = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter: its warnings and log lines concern torch's own developers, not our users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def export_graph(graph: Graph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write `graph` to `path` as one self-contained ONNX file; arguments and errors as `to_model`.

    The file is whole or absent; OSError when the system refuses it.
    """
    write_whole(path, to_model(graph, metadata).SerializeToString(deterministic=True))


def to_model(graph: Graph, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Turn a graph into an ONNX model that keeps its contract.

    Args:
        graph: module, inputs and outputs.
        metadata: key -> JSON text, stored as the model's metadata_props.

    Raises:
        UsageError: E-GRAPH-SIZE when the weights do not fit one ONNX file.
        GateError: E-GRAPH-CONTRACT when the model does not keep the graph's contract.

    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.module.state_dict().values())
    if size > MAX_BYTES:
        raise UsageError(
            "E-GRAPH-SIZE",
            f"the weights behind {' and '.join(port.name for port in graph.outputs)} take {size / 2**30:.1f} GiB, "
            "one ONNX file holds 2 GiB; train with a smaller backbone or fewer hidden units",
        )
    axes = {axis for port in graph.inputs for axis in port.shape if isinstance(axis, str)}
    dims = {axis: torch.export.Dim(axis, min=1) for axis in axes}
    with quiet():
        program = torch.onnx.export(
            graph.module,
            kwargs=graph.example(),
            input_names=[port.name for port in graph.inputs],
            output_names=[port.name for port in graph.outputs],
            dynamic_shapes={
                port.name: {at: dims[axis] for at, axis in enumerate(port.shape) if isinstance(axis, str)}
                for port in graph.inputs
            },
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # dynamo=True always returns a program
    model: onnx.ModelProto = program.model_proto  # all weights inside: no file was named beside which they could go
    strip(model)
    drop_expansions(model)
    onnx.helper.set_model_props(model, dict(metadata))
    check(model, graph)
    return model


def strip(model: onnx.ModelProto) -> None:
    """Remove, in place, what tracing left behind: stack traces name the files of the machine that exported."""
    model.producer_name, model.producer_version = "zsl-deploy", ""
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")


def check(model: onnx.ModelProto, graph: Graph) -> None:
    """Hold a model against its contract.

    Raises:
        GateError: E-GRAPH-CONTRACT naming every difference.

    """
    faults = [
        *_compare_ports("input", model.graph.input, graph.inputs),
        *_compare_ports("output", model.graph.output, graph.outputs),
        *_unwanted(model),
    ]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        faults.append(str(error))
    if not faults:  # what the runtime would refuse: an operator or a size that no graph had when its table was made
        try:
            check_graph(model.SerializeToString(), where="it", ports=Ports(graph.inputs, graph.outputs))
        except ArtefactError as error:
            faults.append(error.message)
    if faults:
        raise GateError(
            "E-GRAPH-CONTRACT",
            f"the graph that torch {torch.__version__} and onnx {onnx.__version__} made does not keep its contract: "
            f"{'; '.join(faults)}; nothing was written: report this line, it is a bug",
        )


def _unwanted(model: onnx.ModelProto) -> Iterator[str]:
    """What no runtime should be asked to run."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        yield f"operator sets {opsets}, expected only ONNX's own at {OPSET}"
    for op in sorted({node.op_type for node in model.graph.node} & UNWANTED_OPS):
        yield f"operator {op} is not allowed"
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        yield "weights lie outside the file"


def _compare_ports(kind: str, found: Iterable[Any], wanted: tuple[Port, ...]) -> Iterator[str]:
    """Differences between the ports of a model and those of the contract, in words."""
    given = {value.name: value.type.tensor_type for value in found}
    if list(given) != [port.name for port in wanted]:
        yield f"{kind}s {list(given)}, expected {[port.name for port in wanted]}"
        return
    for port in wanted:
        tensor = given[port.name]
        shape = tuple(axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in tensor.shape.dim)
        if tensor.elem_type != _ONNX_DTYPES[port.dtype] or shape != port.shape:
            dtype = onnx.TensorProto.DataType.Name(tensor.elem_type)
            yield f"{kind} {port.name} is {dtype} {shape}, expected {port.dtype} {port.shape}"
