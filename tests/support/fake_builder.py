"""A stand-in for the building half of a TensorRT module that keeps every call.

It is strict where the documentation is: the logger and monitor are of its own classes, a profile takes tuples, a shape
that was never set is missed, and what is wrong is answered with False or None and a line in the log, as there.
Of full TensorRT 10 and 11 there is no package that can be installed without a card's libraries; TensorRT-RTX is there,
and the same tests that run here run on it for real.
"""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

from zsl_runtime.graphs.onnx_file import read_model


class Severity(enum.IntEnum):
    """Of the log."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class DataType(enum.Enum):
    """Of tensors."""

    FLOAT = 0
    HALF = 1
    UINT8 = 5


class NetworkDefinitionCreationFlag(enum.IntEnum):
    """STRONGLY_TYPED is bit 1 in 10 and 11; in RTX it is bit 0."""

    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    """Those that we name."""

    TF32 = 6
    VERSION_COMPATIBLE = 12


class MemoryPoolType(enum.Enum):
    """Those that we name."""

    WORKSPACE = 0


class ErrorCode(enum.Enum):
    """Of the parser."""

    INVALID_GRAPH = 6
    UNSUPPORTED_NODE = 8
    UNSUPPORTED_NODE_ATTR = 9


class TensorIOMode(enum.Enum):
    """Of an engine's tensors."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ILogger:
    """What a logger must be made of."""

    Severity = Severity

    def __init__(self) -> None:
        self.made = True


class IProgressMonitor:
    """What a monitor must be made of."""

    def __init__(self) -> None:
        self.made = True


class FakeTensorRT:
    """One module, and what it was called with.

    Args:
        version: of the library.
        ports: of the graph, which the parser gives the network: (name, dtype, shape) of inputs and of outputs.
        unsupported: operators that the parser does not take.
        fails: at which step: builder, network, parse, node, profile, build, load; '' for none.
        said: the line in its log then.
        engine_ports: of the plan, where they are others than the graph's.
        steps: of the one phase that a build has.

    Attributes:
        calls: (name, arguments) in their order.

    """

    def __init__(
        self,
        version: str,
        ports: Any,
        *,
        unsupported: tuple[str, ...] = (),
        fails: str = "",
        said: str = "something is wrong",
        engine_ports: Any = None,
        steps: int = 3,
    ) -> None:
        self.__version__ = version
        self.ports, self.engine_ports = ports, engine_ports or ports
        self.unsupported, self.fails, self.said, self.steps = unsupported, fails, said, steps
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.profiles: list[dict[str, Any]] = []
        self.ILogger, self.IProgressMonitor = ILogger, IProgressMonitor
        self.NetworkDefinitionCreationFlag, self.BuilderFlag = NetworkDefinitionCreationFlag, BuilderFlag
        self.MemoryPoolType, self.TensorIOMode, self.DataType = MemoryPoolType, TensorIOMode, DataType
        self.Builder = lambda logger: _Builder(self, logger)
        self.OnnxParser = lambda network, logger: _Parser(self, network, logger)
        self.Runtime = lambda logger: _Runtime(self, logger)

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """Arguments of each call of this name."""
        return [arguments for called, arguments in self.calls if called == name]

    def note(self, name: str, *arguments: Any) -> None:
        """Keep a call."""
        self.calls.append((name, arguments))

    def tensors(self, ports: Any) -> list[Any]:
        """Of ports, as a network's: name, dtype and shape."""
        types = {"float32": DataType.FLOAT, "uint8": DataType.UINT8, "float16": DataType.HALF}
        return [
            SimpleNamespace(
                name=port.name,
                dtype=types[port.dtype],
                shape=tuple(-1 if isinstance(size, str) else size for size in port.shape),
            )
            for port in ports
        ]


class _Builder:
    def __init__(self, fake: FakeTensorRT, logger: Any) -> None:
        if not (isinstance(logger, ILogger) and logger.made):
            raise TypeError("incompatible constructor arguments")
        if fake.fails == "builder":
            logger.log(Severity.ERROR, fake.said)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.fake, self.logger = fake, logger
        fake.note("Builder")

    def create_network(self, flags: int) -> Any:
        assert type(flags) is int
        self.fake.note("create_network", flags)
        inputs, outputs = (self.fake.tensors(ports) for ports in self.fake.ports)
        return SimpleNamespace(
            num_inputs=len(inputs),
            num_outputs=len(outputs),
            get_input=inputs.__getitem__,
            get_output=outputs.__getitem__,
        )

    def create_builder_config(self) -> Any:
        return _Config(self.fake)

    def create_optimization_profile(self) -> Any:
        return _Profile(self.fake)

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        fake, monitor = self.fake, config.progress_monitor
        fake.note("build_serialized_network")
        if not fake.profiles:
            self.logger.log(Severity.ERROR, "Network has dynamic inputs, but no optimization profile has been defined.")
            return None
        monitor.phase_start("Building", None, fake.steps)
        for step in range(fake.steps):
            if not monitor.step_complete("Building", step):
                self.logger.log(Severity.ERROR, "Build was cancelled")
                return None
        monitor.phase_finish("Building")
        if fake.fails == "build":
            self.logger.log(Severity.WARNING, "this is only a warning")
            self.logger.log(Severity.ERROR, f"Error Code 10:\n {fake.said}")  # noqa: G004  # not logging
            return None
        return b"" if fake.fails == "empty" else b"ftrt a plan"


class _Parser:
    def __init__(self, fake: FakeTensorRT, network: Any, logger: Any) -> None:
        assert network.num_inputs
        self.fake, self.logger, self.errors = fake, logger, []

    def supports_operator(self, name: str) -> bool:
        self.fake.note("supports_operator", name)
        return name not in self.fake.unsupported

    def parse(self, data: bytes) -> bool:
        read_model(data)  # a file
        self.fake.note("parse", len(data))
        if self.fake.fails in {"parse", "node"}:
            code = ErrorCode.UNSUPPORTED_NODE_ATTR if self.fake.fails == "node" else ErrorCode.INVALID_GRAPH
            self.errors = [
                SimpleNamespace(
                    code=lambda: code,
                    desc=lambda: self.fake.said,
                    node_name=lambda: "/layer/Resize",
                    node_operator=lambda: "Resize",
                )
            ]
            return False
        return True

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, i: int) -> Any:
        return self.errors[i]


class _Config:
    def __init__(self, fake: FakeTensorRT) -> None:
        self.fake, self.progress_monitor = fake, None

    def clear_flag(self, flag: Any) -> None:
        self.fake.note("clear_flag", flag)

    def set_flag(self, flag: Any) -> None:
        self.fake.note("set_flag", flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.fake.note("set_memory_pool_limit", pool, size)

    def add_optimization_profile(self, profile: _Profile) -> int:
        if self.fake.fails == "profile":
            return -1
        self.fake.profiles.append(profile.shapes)
        return len(self.fake.profiles) - 1


class _Profile:
    def __init__(self, fake: FakeTensorRT) -> None:
        self.fake, self.shapes = fake, {}

    def set_shape(self, name: str, least: Any, best: Any, largest: Any) -> None:
        assert all(type(shape) is tuple for shape in (least, best, largest))
        self.shapes[name] = (least, best, largest)

    def __bool__(self) -> bool:
        inputs = self.fake.tensors(self.fake.ports[0])
        return {tensor.name for tensor in inputs if -1 in tensor.shape} == set(self.shapes)


class _Runtime:
    engine_host_code_allowed = False

    def __init__(self, fake: FakeTensorRT, logger: Any) -> None:
        self.fake, self.logger = fake, logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        self.fake.note("deserialize_cuda_engine", self.engine_host_code_allowed)
        if self.fake.fails == "load":
            self.logger.log(Severity.ERROR, self.fake.said)
            return None
        inputs, outputs = (self.fake.tensors(ports) for ports in self.fake.engine_ports)
        modes = {TensorIOMode.INPUT: inputs, TensorIOMode.OUTPUT: outputs}
        found = {tensor.name: (mode, tensor) for mode, tensors in modes.items() for tensor in tensors}
        names = list(found)
        return SimpleNamespace(
            num_io_tensors=len(names),
            get_tensor_name=names.__getitem__,
            get_tensor_mode=lambda name: found[name][0],
            get_tensor_dtype=lambda name: found[name][1].dtype,
            get_tensor_shape=lambda name: found[name][1].shape,
            num_optimization_profiles=len(self.fake.profiles),
            get_tensor_profile_shape=lambda name, i: [list(shape) for shape in self.fake.profiles[i][name]],
        )
