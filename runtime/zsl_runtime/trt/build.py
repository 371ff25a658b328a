"""An ONNX graph becomes a TensorRT plan. One path for both libraries, and only strongly typed networks.

TensorRT's Python API takes nonsense without a word and, where it fails, returns None and writes to its log. So
everything is checked here before it is given to the library, and what the library says is in our error.

The precision is that of the graph: a strongly typed network computes in the types that the file says. Head and classes
are inputs, so one plan serves every generation of a bundle.
"""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import ArtefactError, BackendError, UsageError, from_os_error, listed
from zsl_runtime.graphs.check import check_graph
from zsl_runtime.graphs.ports import Ports, ports_of
from zsl_runtime.machine import cards
from zsl_runtime.trt.facts import Facts, Profile, Stored, graph_file
from zsl_runtime.trt.library import Messages
from zsl_runtime.trt.progress import BuildProgress, monitor_for
from zsl_runtime.trt.store import read_sidecar, store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.graphs.ports import Port
    from zsl_runtime.machine.cards import Card
    from zsl_runtime.trt.library import Library

MAX_CLASSES = 20_000
OPT_CLASSES = 200  # what the builder tunes the head's product for; it is a thousandth of the work either way
MAX_BATCH = 4096
LATENCY_BATCH = 8  # the largest batch of the latency profile
DEFAULT_MAX_BATCH = 64
GIB = 2**30
DTYPES = {"FLOAT": "float32", "UINT8": "uint8", "HALF": "float16"}  # of the library -> ours
UNSUPPORTED = ("UNSUPPORTED_NODE", "UNSUPPORTED_GRAPH")  # the parser's codes begin with these
LEAST_CAPABILITY = 8.0  # of those an engine is built for where none is named: 7.5 wants other kernels and doubles it

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # the least, best and largest shape of an input


@dataclass(frozen=True)
class Shape:
    """The sizes that an engine is to serve.

    Attributes:
        min_batch: of the throughput profile.
        opt_batch: where that one is fastest; None for max_batch.
        max_batch: of both.
        max_classes: up to MAX_CLASSES.

    """

    min_batch: int = 1
    opt_batch: int | None = None
    max_batch: int = DEFAULT_MAX_BATCH
    max_classes: int = MAX_CLASSES

    def profiles(self) -> tuple[Profile, Profile]:
        """Latency (from 1, fastest at 1) and throughput; UsageError E-ENGINE-PROFILE for nonsense."""
        latency = Profile(1, 1, min(LATENCY_BATCH, self.max_batch))
        best = self.max_batch if self.opt_batch is None else self.opt_batch
        profiles = (latency, Profile(self.min_batch, best, self.max_batch))
        check_profiles(profiles, self.max_classes)
        return profiles


# --- for a bundle ---------------------------------------------------------------------------------------------------


def build_for_bundle(  # each is an option of the command
    bundle: Bundle,
    library: Library,
    precision: str,
    *,
    part: str = "model",
    shape: Shape | None = None,
    compute_capabilities: Sequence[str] = (),
    workspace_bytes: int | None = None,
    progress: BuildProgress | None = None,
) -> Stored:
    """Build the engine of one graph of a bundle and keep it in the store.

    Args:
        bundle: its graph is compared with the manifest before it is used.
        library: that builds.
        precision: fp32, fp16 or int8, one that the bundle holds.
        part: model, or one of the small graphs.
        shape: batches and classes.
        compute_capabilities: such as ("8.9",); empty for the card at hand or, with TensorRT-RTX on a machine without
            one, all that the library builds for from 8.0 on.
        workspace_bytes: scratch memory that a layer may take on the card; None for what the library chooses.
        progress: told how far it is.

    Raises:
        UsageError: E-ENGINE-PROFILE, E-ENGINE-CAPABILITY, E-ENGINE-WORKSPACE, and what `graph_file` raises.
        BackendError: E-DEVICE (the full library without a card), E-ENGINE-CAPABILITY (this card is not supported),
            E-ENGINE-OPERATOR, E-ENGINE-BUILD.
        ArtefactError: E-BUNDLE-... (the file was changed), E-BUNDLE-GRAPH, E-ENGINE-PORTS.
        SystemProblem: the plan cannot be written.

    """
    shape = shape or Shape()
    profiles = shape.profiles()
    name = graph_file(bundle, part, precision)
    card = card_at_hand()
    capabilities = choose_capabilities(library, compute_capabilities, card)
    bundle.verify_file(name)
    path = bundle.file(name)
    facts = Facts(
        graph_sha256=bundle.manifest["files"][name]["sha256"],
        part=part,
        flavour=library.flavour,
        version=library.version,
        compute_capabilities=capabilities,
        gpu=card.name if card is not None and not library.names_capabilities else None,
        precision=precision,
        profiles=profiles,
        max_classes=shape.max_classes if part == "model" else 0,
    )
    ports = ports_of(bundle, part)
    started = time.perf_counter()
    plan = build(
        library,
        path,
        ports=ports,
        profiles=profiles,
        max_classes=shape.max_classes,
        precision=precision,
        compute_capabilities=capabilities,
        workspace_bytes=workspace_bytes,
        progress=progress,
        sha256=facts.graph_sha256,
    )
    check_header(library, plan)
    # A plan for another card cannot be loaded here; TensorRT-RTX loads none without a card.
    if card is not None and card.compute_capability in capabilities:
        check_plan(library, plan, ports, profiles, shape.max_classes)
    stored = store(bundle.path, facts, plan, ports, time.perf_counter() - started)
    return read_sidecar(stored.with_suffix(".json"))


def card_at_hand() -> Card | None:
    """The first card of this machine, which TensorRT builds on; CUDA_VISIBLE_DEVICES chooses another one."""
    return cards.driver().card(0)


def choose_capabilities(library: Library, asked: Sequence[str], card: Card | None) -> tuple[str, ...]:
    """The compute capabilities to build for, ascending.

    Args:
        library: the full one builds for the card at hand alone.
        asked: by the user; empty where nothing was said.
        card: at hand, if any.

    Raises:
        UsageError: E-ENGINE-CAPABILITY for one that the library does not build for, or one asked for twice.
        BackendError: E-DEVICE when the full library finds no card; E-ENGINE-CAPABILITY when the card at hand is not one
            that TensorRT-RTX builds for.

    """
    if not library.names_capabilities:
        if card is None:
            problem = cards.driver().problem or "there is none"
            raise BackendError(
                "E-DEVICE",
                f"{library} builds on the card that will run the engine, and {problem}; "
                "without a card build with --trt rtx, for GeForce and RTX cards",
            )
        if tuple(asked) not in {(), (card.compute_capability,)}:
            raise UsageError(
                "E-ENGINE-CAPABILITY",
                f"{library} builds for the card at hand alone ({card.name}, {card.compute_capability}), not for "
                f"{', '.join(asked)}; leave --compute-capability out, or build with --trt rtx",
            )
        return (card.compute_capability,)
    known = known_capabilities(library)
    if asked:
        wrong = [one for one in asked if one not in known]
        if wrong or len(set(asked)) != len(asked):
            problem = f"{library} does not build for {', '.join(wrong)}" if wrong else "one is named twice"
            raise UsageError("E-ENGINE-CAPABILITY", f"{problem}; choose from {', '.join(known)}")
        return tuple(sorted(asked, key=float))
    if card is None:
        return tuple(one for one in known if float(one) >= LEAST_CAPABILITY)
    if card.compute_capability not in known:
        raise BackendError(
            "E-ENGINE-CAPABILITY",
            f"{library} does not support this card ({card.name}, compute capability {card.compute_capability}), only "
            f"{', '.join(known)}; build with --trt tensorrt, or for another card with --compute-capability",
        )
    return (card.compute_capability,)


def known_capabilities(library: Library) -> tuple[str, ...]:
    """Those that the library names, ascending, such as 8.9 for SM89; empty with the full library."""
    names = getattr(getattr(library.module, "ComputeCapability", None), "__members__", {})
    numbers = sorted(int(name[2:]) for name in names if name.startswith("SM") and name[2:].isdigit())
    return tuple(f"{number // 10}.{number % 10}" for number in numbers)


# --- building -------------------------------------------------------------------------------------------------------


def build(
    library: Library,
    onnx_path: Any,
    *,
    ports: Ports,
    profiles: Sequence[Profile],
    max_classes: int,
    precision: str,
    compute_capabilities: Sequence[str],
    workspace_bytes: int | None = None,
    progress: BuildProgress | None = None,
    sha256: str = "",
) -> bytes:
    """Build the plan of one ONNX file.

    Args:
        library: that builds.
        onnx_path: a pathlib.Path; the file holds its weights.
        ports: inputs and outputs that the file must have.
        profiles: batches to serve.
        max_classes: the largest class count.
        precision: of the graph; the types are the file's, this decides on TF32 alone.
        compute_capabilities: of cards; with the full library, of the one at hand.
        workspace_bytes: scratch memory that a layer may take; None for the library's choice.
        progress: told how far it is.
        sha256: that the file must have; '' where nothing says it.

    Returns:
        The plan, which trtexec and Triton load as it is.

    Raises:
        UsageError: E-ENGINE-PROFILE, E-ENGINE-WORKSPACE.
        ArtefactError: E-BUNDLE-GRAPH for a file that is no graph of ours (`zsl_runtime.graphs.check`) or has other
            ports; E-BUNDLE-HASH for another file.
        BackendError: E-ENGINE-OPERATOR for operators that the library does not take; E-ENGINE-BUILD with its own error
            lines for the rest.
        KeyboardInterrupt: the build was cancelled.

    """
    check_profiles(profiles, max_classes)
    if workspace_bytes is not None and workspace_bytes < 1:
        raise UsageError("E-ENGINE-WORKSPACE", f"a workspace of {workspace_bytes} bytes; give more than 0")
    try:
        data = onnx_path.read_bytes()
    except OSError as error:
        raise from_os_error(error, "read the graph") from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise ArtefactError("E-BUNDLE-HASH", f"{onnx_path} was exchanged meanwhile; copy or export the bundle again")
    operators = check_graph(data, where=str(onnx_path), ports=ports).operators
    module, messages = library.module, Messages(library)
    builder = _made("builder", messages, lambda: module.Builder(messages.logger))
    network = _made("network", messages, lambda: builder.create_network(_strongly_typed(library)))
    parser = _made("parser", messages, lambda: module.OnnxParser(network, messages.logger))
    _check_operators(library, parser, operators, where=str(onnx_path))
    _parse(library, parser, data, messages, where=str(onnx_path))
    check_network(network, ports, where=str(onnx_path))
    config = _made("configuration", messages, builder.create_builder_config)
    # TF32 keeps 10 of the 23 bits of what it multiplies: not the float32 that was asked for. Beside int8 it is enough.
    if precision != "int8":
        config.clear_flag(module.BuilderFlag.TF32)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace_bytes)
    if library.names_capabilities:
        _name_capabilities(library, config, compute_capabilities, messages)
    for profile in profiles:
        _add_profile(builder, config, ranges(ports.inputs, profile, max_classes), messages)
    monitor = monitor_for(library, progress or BuildProgress(sys.stderr, quiet=True))
    config.progress_monitor = monitor
    serialized = builder.build_serialized_network(network, config)
    monitor.raise_cancelled()
    if serialized is None:
        raise _failed("build the engine", messages)
    plan = bytes(serialized)
    if not plan:
        raise _failed("build the engine: the plan is empty", messages)
    return plan


def check_profiles(profiles: Sequence[Profile], max_classes: int) -> None:
    """UsageError E-ENGINE-PROFILE unless 1 <= min <= opt <= max <= 4096 in each, and classes are 1 to 20,000."""
    code = "E-ENGINE-PROFILE"
    if not profiles:
        raise UsageError(code, "there is no batch to serve; give at least one profile")
    for one in profiles:
        sizes = (one.min_batch, one.opt_batch, one.max_batch)
        if any(type(size) is not int for size in sizes) or not 1 <= sizes[0] <= sizes[1] <= sizes[2] <= MAX_BATCH:
            raise UsageError(
                code,
                f"batches of at least {sizes[0]}, best {sizes[1]} and at most {sizes[2]}; expected whole numbers with "
                f"1 <= --min-batch <= --opt-batch <= --max-batch <= {MAX_BATCH}",
            )
    if type(max_classes) is not int or not 1 <= max_classes <= MAX_CLASSES:
        raise UsageError(code, f"at most {max_classes} classes; an engine serves 1 to {MAX_CLASSES}")


def ranges(inputs: Sequence[Port], profile: Profile, max_classes: int) -> Mapping[str, Range]:
    """Least, best and largest shape of every input with a dynamic size: N and M are the profile's, C the classes'.

    Raises:
        UsageError: E-ENGINE-PROFILE for another letter.

    """
    batch = (profile.min_batch, profile.opt_batch, profile.max_batch)
    classes = (1, min(OPT_CLASSES, max_classes), max_classes)
    served = {"N": batch, "M": batch, "C": classes}
    found: dict[str, Range] = {}
    for port in inputs:
        unknown = [size for size in port.shape if not isinstance(size, int) and size not in served]
        if unknown:
            raise UsageError("E-ENGINE-PROFILE", f"input {port.name!r} has the size {unknown[0]!r}, not N, M or C")
        if not all(isinstance(size, int) for size in port.shape):
            least, best, largest = (
                tuple(size if isinstance(size, int) else served[str(size)][k] for size in port.shape) for k in range(3)
            )
            found[port.name] = (least, best, largest)
    return found


def check_network(network: Any, ports: Ports, *, where: str) -> None:
    """Compare a parsed network with the ports it must have; ArtefactError E-BUNDLE-GRAPH where they differ."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    problem = _differs(inputs, ports.inputs, "input") or _differs(outputs, ports.outputs, "output")
    if problem:
        raise ArtefactError("E-BUNDLE-GRAPH", f"{where}: {problem}; export the model again")


def check_header(library: Library, plan: bytes) -> None:
    """Let the library look at a plan's first bytes, which it does without a card too, where it can (TensorRT-RTX).

    Raises:
        BackendError: E-ENGINE-LOAD when it takes them for damaged, or for those of another version.

    """
    if not hasattr(library.module.Runtime, "get_engine_validity"):
        return
    messages = Messages(library)
    runtime = _made("runtime", messages, lambda: library.module.Runtime(messages.logger))
    # Its verdict is about the card as well, and there may be none; the reasons tell what is wrong with the plan.
    _, reasons = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    known = library.module.EngineInvalidityDiagnostics
    for name in ("MALFORMED_ENGINE", "VERSION_MISMATCH"):
        if int(reasons) & int(getattr(known, name)):
            raise BackendError(
                "E-ENGINE-LOAD", f"{library} does not take the header of the plan it built: {name}; see zsl-doctor"
            )


def check_plan(library: Library, plan: bytes, ports: Ports, profiles: Sequence[Profile], max_classes: int) -> None:
    """Load a plan that was built just now, and compare it with what was wanted.

    Code for the CPU in a plan is never run: the runtime's `engine_host_code_allowed` stays off.

    Raises:
        BackendError: E-ENGINE-LOAD when the library does not take its own plan.
        ArtefactError: E-ENGINE-PORTS when inputs, outputs, types, shapes or profiles are others.

    """
    messages = Messages(library)
    runtime = _made("runtime", messages, lambda: library.module.Runtime(messages.logger))
    runtime.engine_host_code_allowed = False
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError("E-ENGINE-LOAD", f"{library} does not load the plan it built: {messages.text()}")
    try:
        check_engine(library, engine, ports, profiles, max_classes)
    finally:
        del engine  # before its runtime


def check_engine(library: Library, engine: Any, ports: Ports, profiles: Sequence[Profile], max_classes: int) -> None:
    """Compare a loaded engine with ports and profiles; ArtefactError E-ENGINE-PORTS where they differ."""
    mode = library.module.TensorIOMode.INPUT
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    found: dict[bool, list[_Tensor]] = {True: [], False: []}
    for name in names:
        tensor = _Tensor(name, engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name)))
        found[engine.get_tensor_mode(name) == mode].append(tensor)
    problem = _differs(found[True], ports.inputs, "input") or _differs(found[False], ports.outputs, "output")
    if not problem and engine.num_optimization_profiles != len(profiles):
        problem = f"it has {engine.num_optimization_profiles} profiles, expected {len(profiles)}"
    for i, profile in enumerate(profiles):
        for name, wanted in ranges(ports.inputs, profile, max_classes).items():
            if not problem:
                held = tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, i))
                problem = "" if held == wanted else f"profile {i} of {name!r} is {held}, expected {wanted}"
    if problem:
        raise ArtefactError(
            "E-ENGINE-PORTS", f"the engine is not that of this bundle: {problem}; build it again with zsl-export"
        )


@dataclass(frozen=True)
class _Tensor:
    """What `_differs` looks at, of an engine's tensor."""

    name: str
    dtype: Any
    shape: tuple[int, ...]


def _differs(found: Sequence[Any], wanted: Sequence[Port], kind: str) -> str:
    """How tensors (with name, dtype and shape) differ from ports, in words; '' when they do not."""
    by_name = {tensor.name: tensor for tensor in found}
    if set(by_name) != {port.name for port in wanted}:
        return f"its {kind}s are {listed(sorted(by_name))}, expected {listed([port.name for port in wanted])}"
    for port in wanted:
        tensor = by_name[port.name]
        dtype = DTYPES.get(str(getattr(tensor.dtype, "name", tensor.dtype)), str(tensor.dtype))
        shape = tuple(size if isinstance(size, int) else -1 for size in port.shape)
        if dtype != port.dtype or tuple(tensor.shape) != shape:
            return f"{kind} {port.name!r} is {dtype} {tuple(tensor.shape)}, expected {port.dtype} {shape}"
    return ""


def _strongly_typed(library: Library) -> int:
    """Flags of a strongly typed network. From 11 on there is no other kind, and the flag changes nothing."""
    return 1 << int(library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _check_operators(library: Library, parser: Any, operators: frozenset[str], *, where: str) -> None:
    """BackendError E-ENGINE-OPERATOR for what the parser does not take."""
    refused = [name for name in sorted(operators) if not parser.supports_operator(name)]
    if refused:
        raise BackendError(
            "E-ENGINE-OPERATOR",
            f"{library} does not take {listed(refused)} of {where}; run the bundle with --backend ort, or use another "
            "version of the library",
        )


def _parse(library: Library, parser: Any, data: bytes, messages: Messages, *, where: str) -> None:
    if parser.parse(data):
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    told = [f"{error.node_operator()} {error.node_name()}: {error.desc()}".strip(" :") for error in errors]
    if any(str(getattr(error.code(), "name", "")).startswith(UNSUPPORTED) for error in errors):
        raise BackendError(
            "E-ENGINE-OPERATOR",
            f"{library} does not take {where}: {'; '.join(told[:3])}; run the bundle with --backend ort, or use "
            "another version of the library",
        )
    raise _failed(f"read {where}", messages, told)


def _name_capabilities(library: Library, config: Any, names: Sequence[str], messages: Messages) -> None:
    members = library.module.ComputeCapability.__members__
    config.num_compute_capabilities = len(names)
    for i, name in enumerate(names):
        if not config.set_compute_capability(members[f"SM{name.replace('.', '')}"], i):
            raise _failed(f"build for compute capability {name}", messages)


def _add_profile(builder: Any, config: Any, shapes: Mapping[str, Range], messages: Messages) -> None:
    profile = builder.create_optimization_profile()
    for name, (least, best, largest) in shapes.items():
        profile.set_shape(name, least, best, largest)
    if not profile or config.add_optimization_profile(profile) < 0:
        raise _failed(f"serve the shapes {dict(shapes)}", messages)


def _made(what: str, messages: Messages, make: Any) -> Any:
    """What `make` gives; BackendError E-ENGINE-BUILD when it fails, as on a machine that the library does not take."""
    try:
        made = make()
    except (TypeError, RuntimeError) as error:  # so the bindings tell of a null pointer
        raise _failed(f"make a {what}", messages, [str(error)]) from None
    if made is None:
        raise _failed(f"make a {what}", messages)
    return made


def _failed(doing: str, messages: Messages, told: Sequence[str] = ()) -> BackendError:
    reasons = "; ".join([*told[:3], *messages.errors]) or messages.text()
    return BackendError("E-ENGINE-BUILD", f"TensorRT could not {doing}: {reasons}; see what zsl-doctor says")
