"""How many randomly changed graphs pass the check, and what do the libraries make of those?

Graphs of small bundles are changed at random: bits of the file, and fields of the model (operators, names, attributes,
constants, shapes, types), one to three changes at once, with right hashes, as somebody would who wants to end the
process of another. Each is checked (`zsl_runtime.graphs.check`); what passes is loaded and run by each library in a
process of its own with a limit on memory and time. For comparison the same graphs are given to the libraries unchecked.

    python benchmarks/mutated_graphs.py GRAPH.onnx... --count 6000 --out benchmarks/results/reliability/graphs.json
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime as dt
import json
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from zsl_runtime.errors import ArtefactError, ZslError
from zsl_runtime.graphs.check import check_graph
from zsl_runtime.graphs.operators import OPERATORS
from zsl_runtime.machine.threads import usable_cpus

GIB = 2**30
MEMORY = 3 * GIB  # of addresses that a library's process may have; some 1 GiB of it are its code
MEMORY_BOUND = 512 * 2**20  # resident, above what the process had before the graph
SECONDS = 20.0
ROWS = (1, 2, 5)
CLASSES = 3
STRANGE = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 5, 64, 10**6, 10**9, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
OTHERS = ("Loop", "Scan", "If", "ConstantOfShape", "Range", "Tile", "Resize", "TopK", "NonZero", "RandomNormal", "Pad")


# --- changes --------------------------------------------------------------------------------------------------------


def changed(data: bytes, draw: random.Random) -> bytes:
    """A graph with one to three changes."""
    times = draw.choice((1, 1, 1, 2, 2, 3))
    for _ in range(times):
        if draw.random() < 0.3:
            data = flipped(data, draw)
            continue
        model = onnx.ModelProto()
        try:
            model.ParseFromString(data)
        except Exception:  # what an earlier change left
            return data
        try:
            draw.choice(CHANGES)(model, draw)
        except Exception:  # this graph has nothing of the kind, or an earlier change left nothing to change
            continue
        data = model.SerializeToString()
    return data


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One bit or byte, most often outside the weights, which make most of the file."""
    whole = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(whole)) if draw.random() < 0.3 else structure(data, draw)
        whole[at] = draw.choice((whole[at] ^ 1 << draw.randrange(8), draw.randrange(256), 0, 0x7F, 0x80, 0xFF))
    return bytes(whole)


def structure(data: bytes, draw: random.Random) -> int:
    """A place near some word of the graph."""
    word = draw.choice((b"\n\x04axis", b"pads", b"perm", b"\x12\x01", b"head_", b"Conv", b"Gemm", b"MatMul", b"scores"))
    places, at = [], data.find(word)
    while at >= 0 and len(places) < 200:
        places.append(at)
        at = data.find(word, at + 1)
    near = draw.choice(places) if places else draw.randrange(len(data))
    return min(max(near + draw.randrange(-40, 40), 0), len(data) - 1)


def _operator(model, draw) -> None:
    node = draw.choice(model.graph.node)
    node.op_type = draw.choice((*OPERATORS, *OPERATORS, *OTHERS))


def _domain(model, draw) -> None:
    draw.choice(model.graph.node).domain = draw.choice(("com.microsoft", "ai.onnx", "ai.onnx.ml", "x"))


def _drop_node(model, draw) -> None:
    del model.graph.node[draw.randrange(len(model.graph.node))]


def _twice(model, draw) -> None:
    nodes = model.graph.node
    nodes.insert(draw.randrange(len(nodes)), draw.choice(nodes))


def _swap(model, draw) -> None:
    one, other = (draw.randrange(len(model.graph.node)) for _ in range(2))
    first, second = onnx.NodeProto(), onnx.NodeProto()
    first.CopyFrom(model.graph.node[one])
    second.CopyFrom(model.graph.node[other])
    model.graph.node[one].CopyFrom(second)
    model.graph.node[other].CopyFrom(first)


def _names(model) -> list[str]:
    graph = model.graph
    held = [one.name for one in (*graph.initializer, *graph.input)]
    return ["", *held, *(name for node in graph.node for name in node.output)]


def _input(model, draw) -> None:
    node = draw.choice(model.graph.node)
    node.input[draw.randrange(len(node.input))] = draw.choice(_names(model))


def _more_inputs(model, draw) -> None:
    draw.choice(model.graph.node).input.append(draw.choice(_names(model)))


def _fewer_inputs(model, draw) -> None:
    node = draw.choice(model.graph.node)
    del node.input[draw.randrange(len(node.input))]


def _output(model, draw) -> None:
    node = draw.choice(model.graph.node)
    node.output[draw.randrange(len(node.output))] = draw.choice(_names(model))


def _attribute(model, draw) -> None:
    node = draw.choice([one for one in model.graph.node if one.attribute])
    attribute = draw.choice(node.attribute)
    match attribute.type:
        case AttributeProto.INT:
            attribute.i = draw.choice((*STRANGE, attribute.i + 1, attribute.i - 1))
        case AttributeProto.INTS:
            change = draw.randrange(4)
            if change == 0:
                attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(STRANGE)
            elif change == 1:
                attribute.ints.append(draw.choice(STRANGE))
            elif change == 2:
                del attribute.ints[0]
            else:
                at = draw.randrange(len(attribute.ints))
                attribute.ints[at] = max(attribute.ints[at] + draw.choice((-1, 1, 2)), 0)
        case AttributeProto.FLOAT:
            attribute.f = draw.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
        case AttributeProto.STRING:
            attribute.s = draw.choice((b"", b"SAME_UPPER", b"VALID", b"a,b->c", b"ij,jk->ik", b"\xff", b"x" * 300))


def _new_attribute(model, draw) -> None:
    name = draw.choice(("axis", "axes", "to", "perm", "pads", "group", "strides", "keepdims", "transA", "alpha", "x"))
    value = draw.choice((draw.choice(STRANGE), [draw.choice(STRANGE)], 1, 0, 0.5, "NOTSET", [0, 1], [1, 0]))
    draw.choice(model.graph.node).attribute.append(helper.make_attribute(name, value))


def _no_attribute(model, draw) -> None:
    node = draw.choice([one for one in model.graph.node if one.attribute])
    del node.attribute[draw.randrange(len(node.attribute))]


def _attribute_type(model, draw) -> None:
    node = draw.choice([one for one in model.graph.node if one.attribute])
    draw.choice(node.attribute).type = draw.randrange(15)


def _constant(model, draw) -> None:
    """Whole numbers of a constant, which are axes, shapes and places."""
    tensor = draw.choice([one for one in model.graph.initializer if one.data_type == TensorProto.INT64])
    values = numpy_helper.to_array(tensor).copy()
    flat = values.reshape(-1)
    flat[draw.randrange(len(flat))] = draw.choice((*STRANGE, int(flat[0]) + 1, int(flat[0]) - 1))
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _floats(model, draw) -> None:
    tensor = draw.choice([one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT])
    values = numpy_helper.to_array(tensor).copy()
    flat = values.reshape(-1)
    flat[draw.randrange(len(flat))] = draw.choice((0.0, -0.0, 1e38, float("nan"), float("inf"), -1e38, 1e-45))
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _reshaped_constant(model, draw) -> None:
    """A constant of another shape with as many numbers as that takes."""
    tensor = draw.choice(model.graph.initializer)
    values = numpy_helper.to_array(tensor)
    change = draw.randrange(4)
    if change == 0:
        values = values.reshape(-1)
    elif change == 1:
        values = values[None]
    elif change == 2:
        values = np.ascontiguousarray(values.T)
    else:
        shape = tuple(draw.choice((1, 2, 3, size)) for size in values.shape)
        values = np.resize(values, shape)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _constant_type(model, draw) -> None:
    tensor = draw.choice(model.graph.initializer)
    dtype = draw.choice((np.float32, np.float16, np.int64, np.int32, np.int8, np.uint8, np.float64, np.bool_))
    with np.errstate(all="ignore"):
        values = numpy_helper.to_array(tensor).astype(dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _dims(model, draw) -> None:
    tensor = draw.choice(model.graph.initializer)
    if tensor.dims and draw.random() < 0.7:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(STRANGE)
    else:
        tensor.dims.append(draw.choice(STRANGE))


def _raw(model, draw) -> None:
    tensor = draw.choice([one for one in model.graph.initializer if one.raw_data])
    tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data))]


def _external(model, draw) -> None:
    tensor = draw.choice(model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", draw.choice(("/etc/passwd", "weights.bin", "../x", ""))


def _type(model, draw) -> None:
    value = draw.choice((*model.graph.input, *model.graph.output, *model.graph.value_info))
    value.type.tensor_type.elem_type = draw.randrange(24)


def _axis(model, draw) -> None:
    value = draw.choice((*model.graph.input, *model.graph.output, *model.graph.value_info))
    axis = draw.choice(value.type.tensor_type.shape.dim)
    if draw.random() < 0.5:
        axis.dim_value = draw.choice(STRANGE)
    else:
        axis.dim_param = draw.choice(("N", "C", "M", "", "x"))


def _port(model, draw) -> None:
    values = draw.choice((model.graph.input, model.graph.output, model.graph.value_info))
    if draw.random() < 0.5:
        del values[draw.randrange(len(values))]
    else:
        values.append(helper.make_tensor_value_info(draw.choice(_names(model)), draw.randrange(24), None))


def _version(model, draw) -> None:
    if draw.random() < 0.5:
        model.ir_version = draw.choice((0, 3, 7, 9, 11, 20, *STRANGE))
    else:
        model.opset_import[0].version = draw.choice((0, 1, 6, 9, 11, 13, 17, 18, 19, 21, 23, *STRANGE))


def _inside(model, draw) -> None:
    """A graph inside a node."""
    body = helper.make_graph([], "b", [], [])
    draw.choice(model.graph.node).attribute.append(helper.make_attribute("body", body))


def _function(model, draw) -> None:
    node = draw.choice(model.graph.node)
    model.functions.add().CopyFrom(
        helper.make_function("f", "F", list(node.input), list(node.output), [node], list(model.opset_import))
    )
    node.op_type, node.domain = "F", "f"
    model.opset_import.append(helper.make_opsetid("f", 1))


CHANGES = (
    *(_operator, _operator, _domain, _drop_node, _twice, _swap, _input, _input, _more_inputs, _fewer_inputs, _output),
    *(_attribute, _attribute, _attribute, _new_attribute, _no_attribute, _attribute_type, _constant, _constant),
    *(_constant, _floats, _floats, _reshaped_constant, _reshaped_constant, _constant_type, _dims, _raw, _external),
    *(_type, _axis, _port, _version, _inside, _function),
)


# --- the libraries --------------------------------------------------------------------------------------------------


def part_of(data: bytes) -> str:
    """Which part a graph plays, by its outputs."""
    outputs = {value.name for value in onnx.load_model_from_string(data).graph.output}
    for part, name in {"model": "scores", "means": "means", "rows": "weight", "lift": "lifted"}.items():
        if name in outputs:
            return part
    return "synthesizer"


def child(library: str, checked: str) -> None:
    """Load and run the graphs that are named on stdin, one a line; say of each what became of it."""
    import os

    from zsl_runtime.backends.onnx_graphs import GraphBackend
    from zsl_runtime.backends.opening import open_graphs
    from zsl_runtime.graphs import sealed

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if checked == "unchecked":
        sealed.check_graph = lambda *_, **__: None  # type: ignore[assignment]
    warm = open_graphs(library, {}, 1, "fp32")
    del warm
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        part, path = line.split()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = resident("VmRSS")
        try:
            backend = open_graphs(library, {part: Path(path)}, 1, "fp32")
            assert isinstance(backend, GraphBackend)
            for rows in ROWS:
                run(backend, part, rows)
            said = "ran"
        except ZslError as error:
            said = error.code
        except Exception as error:
            said = type(error).__name__
        more = resident("VmHWM") - before
        answers.write(f"{said} {more}\n")
        answers.flush()


def resident(what: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{what}:"):
            return 1024 * int(line.split()[1])
    return 0


def run(backend, part: str, rows: int) -> None:
    """Run a graph on ones."""
    graph = backend._graph(part)
    feeds = {}
    for port in graph.inputs:
        free = iter((rows if port.name not in {"head_weight", "head_bias", "class_bias"} else CLASSES,))
        shape = [axis if isinstance(axis, int) else next(free, 1) for axis in port.shape]
        feeds[port.name] = np.ones(shape, np.uint8 if port.dtype == "uint8" else np.float32)
    backend._run(part, list(graph.outputs), feeds)


class Library:
    """A process that runs graphs with one library; a new one when it ended."""

    def __init__(self, name: str, *, checked: bool) -> None:
        self.name, self.checked = name, checked
        self.process: subprocess.Popen[str] | None = None

    def outcome(self, part: str, path: Path) -> tuple[str, int]:
        """What became of a graph, and bytes that it took beyond those of before."""
        if self.process is None:
            words = [sys.executable, __file__, "--child", self.name, "checked" if self.checked else "unchecked"]
            self.process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{part} {path}\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], SECONDS + 10)
        if not ready:
            process.kill()
            process.wait()
            self.process = None
            return "hung", 0
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self.process = None
            return f"signal {-code}" if code < 0 else f"exit {code}", 0
        said, more = line.split()
        return said, int(more)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def main() -> None:
    """Change, check, run, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unchecked", action="store_true", help="also give every graph to the libraries unchecked")
    parser.add_argument("--keep", type=Path, help="folder for what passed and was not run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    draw = random.Random(given.seed)
    seeds = [(path.read_bytes(), path.name) for path in sorted(given.graphs)]
    parts = {name: part_of(data) for data, name in seeds}
    libraries = [Library(name, checked=True) for name in ("ort", "openvino")]
    bare = [Library(name, checked=False) for name in ("ort", "openvino")] if given.unchecked else []
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    slowest = most = 0.0
    passed = 0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        for number in range(given.count):
            data, name = draw.choice(seeds)
            graph = changed(data, draw)
            if graph == data:
                continue
            counts["graphs"]["changed"] += 1
            path.write_bytes(graph)
            begun = time.perf_counter()
            try:
                check_graph(graph, where=name, part=parts[name])
                good = True
            except ArtefactError:
                good = False
            slowest = max(slowest, time.perf_counter() - begun)
            passed += good
            for library in [*(libraries if good else ()), *bare]:
                said, more = library.outcome(parts[name], path)
                kind = f"{library.name} {'checked' if library.checked else 'unchecked'}"
                counts[kind][said] += 1
                large = more > MEMORY_BOUND
                counts[kind]["beyond the bound of memory"] += large
                if library.checked:
                    most = max(most, more)
                if library.checked and (said != "ran" or large):
                    print(number, name, kind, said, more, flush=True)
                    if given.keep:
                        given.keep.mkdir(parents=True, exist_ok=True)
                        (given.keep / f"{number}-{library.name}-{parts[name]}.onnx").write_bytes(graph)
    for library in (*libraries, *bare):
        library.close()
    result = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "machine": f"{usable_cpus()} CPUs",
        "versions": {name: version(name) for name in ("onnxruntime", "openvino", "onnx", "numpy")},
        "command": f"python benchmarks/mutated_graphs.py {len(seeds)} GRAPHS --count {given.count} --seed {given.seed}"
        + (" --unchecked" if given.unchecked else ""),
        "changed_graphs": counts["graphs"]["changed"],
        "refused_by_the_check": counts["graphs"]["changed"] - passed,
        "passed_the_check": passed,
        "slowest_check_seconds": round(slowest, 4),
        "largest_growth_of_a_process_mib": round(most / 2**20, 1),
        "bounds": {"seconds": SECONDS, "resident_mib": MEMORY_BOUND // 2**20},
        "outcomes": {name: dict(sorted(of.items())) for name, of in sorted(counts.items()) if name != "graphs"},
        "seconds": round(time.perf_counter() - started),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
