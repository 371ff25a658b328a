"""A TensorRT that is none, on a card that is none (`fake_cuda`): real answers by ONNX Runtime, and strict about order.

It stands where `tensorrt` or `tensorrt_rtx` would. Its plans are an ONNX file with profiles in front. `Misuse` for what
NVIDIA's documentation forbids: running without a profile, a shape, an address or memory; capturing a context whose
shapes were changed since it last ran; changing or dropping a context whose graph runs later; dropping an engine before
its contexts or a runtime before its engines. Objects know each other by weak references alone, so that the order in
which our code lets go of them is seen; the real bindings hide it.
"""

from __future__ import annotations

import json
import weakref
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from support.fake_cuda import POISON, Work
from zsl_runtime.trt.build import OPT_CLASSES

if TYPE_CHECKING:
    from pathlib import Path

    from support.fake_cuda import FakeCuda

MAGIC = b"fake plan\n"
VERSIONS = {"tensorrt": "11.4.0.106", "tensorrt-rtx": "1.7.1.116"}
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def make_plan(
    graph: Path, profiles=((1, 1, 8), (1, 16, 32)), *, classes: int = 20_000, scratch: int = 4096, shift: float = 0.0
) -> bytes:
    """A plan of an ONNX file: (min, opt, max) batches of each profile; `shift` is added to the features."""
    facts = {"profiles": profiles, "classes": classes, "scratch": scratch, "shift": shift}
    return MAGIC + json.dumps(facts).encode() + b"\n" + graph.read_bytes()


class DataType(Enum):
    FLOAT = 0
    UINT8 = 5


class TensorIOMode(Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class CudaGraphStrategy(Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class DynamicShapesKernelSpecializationStrategy(Enum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING = Severity

    def __init__(self) -> None:
        pass


class FakeTensorRt:
    """The module. `refusals` is how many of the next runs return False."""

    DataType = DataType
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    ILogger = ILogger

    def __init__(self, cuda: FakeCuda, flavour: str = "tensorrt") -> None:
        self.cuda = cuda
        self.__version__ = VERSIONS[flavour]
        self.refusals = 0
        self.contexts = 0  # made so far
        self.profiles: list[int] = []  # of the runs
        self.buckets: list[int] = []
        self.alive: dict[str, int] = {"runtime": 0, "engine": 0, "context": 0}
        if flavour == "tensorrt-rtx":
            self.CudaGraphStrategy = CudaGraphStrategy
            self.DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy
            self.ComputeCapability = object()

    def Runtime(self, logger):  # noqa: N802  # a class of the real module
        return Runtime(self, logger)


class Runtime:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self._trt, self._logger = trt, logger
        self.engine_host_code_allowed = False
        trt.alive["runtime"] += 1

    def deserialize_cuda_engine(self, serialized_engine):
        plan = bytes(serialized_engine)
        if not plan.startswith(MAGIC):
            self._logger.log(Severity.ERROR, "[E] magicTag is not that of a plan")
            return None
        if self.engine_host_code_allowed:
            raise self._trt.cuda.misuse("a plan may run code on the host")
        facts, _, graph = plan.removeprefix(MAGIC).partition(b"\n")
        return ICudaEngine(self, self._trt, self._logger, json.loads(facts), graph)

    def __del__(self):
        self._trt.alive["runtime"] -= 1
        if self._trt.alive["engine"] > self._trt.alive["runtime"]:
            self._trt.cuda.misuse("a runtime is dropped before its engine")


class _Model:
    """What an engine computes; contexts share it and not the engine."""

    def __init__(self, facts: dict[str, Any], graph: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.profiles, self.classes = facts["profiles"], facts["classes"]
        self.scratch, self.shift = facts["scratch"], facts["shift"]
        self.inputs = {port.name: port for port in self.session.get_inputs()}
        self.outputs = {port.name: port for port in self.session.get_outputs()}
        self.ports = {**self.inputs, **self.outputs}

    def dtype(self, name: str) -> type:
        return np.uint8 if self.ports[name].type == "tensor(uint8)" else np.float32

    def limits(self, name: str, profile: int) -> list[tuple[int, ...]]:
        """Least, best and largest shape."""
        shape = self.ports[name].shape
        heads = {"head_weight", "head_bias", "class_bias"}
        firsts = (1, min(OPT_CLASSES, self.classes), self.classes) if name in heads else self.profiles[profile]
        return [(first, *shape[1:]) for first in firsts]

    def scratch_bytes(self, profile: int) -> int:
        return self.scratch * self.profiles[profile][2]

    def shape(self, name: str, rows: int, classes: int) -> tuple[int, ...]:
        if name in self.inputs:
            raise KeyError(name)
        width = self.outputs[name].shape[1]
        return (rows, classes if name == "scores" else width)


class ICudaEngine:
    def __init__(self, runtime, trt, logger, facts, graph) -> None:
        self._runtime, self._trt, self._logger = weakref.ref(runtime), trt, logger
        self._model = _Model(facts, graph)
        trt.alive["engine"] += 1

    @property
    def num_io_tensors(self):
        return len(self._model.ports)

    @property
    def num_optimization_profiles(self):
        return len(self._model.profiles)

    def get_tensor_name(self, index):
        return list(self._model.ports)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._model.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType.UINT8 if self._model.dtype(name) is np.uint8 else DataType.FLOAT

    def get_tensor_shape(self, name):
        return tuple(axis if isinstance(axis, int) else -1 for axis in self._model.ports[name].shape)

    def get_tensor_profile_shape(self, name, profile_index):
        return self._model.limits(name, profile_index)

    def get_device_memory_size_for_profile_v2(self, profile_index):
        return self._model.scratch_bytes(profile_index)

    def create_runtime_config(self):
        return IRuntimeConfig()

    def create_execution_context(self, strategy):
        if isinstance(strategy, IRuntimeConfig):
            assert strategy.cuda_graph_strategy is CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            strategy = strategy.strategy
        if strategy is not ExecutionContextAllocationStrategy.USER_MANAGED:
            raise self._trt.cuda.misuse("a context with memory of its own")
        return IExecutionContext(self._trt, self._logger, self._model)

    def __del__(self):
        if self._runtime() is None:
            self._trt.cuda.misuse("an engine outlives its runtime")
        self._trt.alive["engine"] -= 1
        if self._trt.alive["context"] and not self._trt.alive["engine"]:
            self._trt.cuda.misuse("an engine is dropped before its contexts")


class IRuntimeConfig:
    strategy = ExecutionContextAllocationStrategy.STATIC
    cuda_graph_strategy = CudaGraphStrategy.DISABLED
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy


class _State:
    """Of a context, for the work that it queued; it outlives the context."""

    def __init__(self) -> None:
        self.version = 0
        self.alive = True
        self.queued: list[weakref.ref[Work]] = []


class IExecutionContext:
    def __init__(self, trt, logger, model) -> None:
        self._trt, self._logger, self._model = trt, logger, model
        self._state = _State()
        self._profile: int | None = None
        self._memory: tuple[int, int] | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._settled = -1  # the version that has run outside a capture
        trt.contexts += 1
        trt.alive["context"] += 1

    def _changed(self) -> None:
        self._state.version += 1

    def _refuse(self, text: str) -> bool:
        self._logger.log(Severity.ERROR, text)
        return False

    def set_optimization_profile_async(self, profile_index, stream_handle):
        cuda = self._trt.cuda
        with cuda.lock:
            cuda.enqueue(cuda.stream(stream_handle), Work(lambda: None, kind="profile"))
        if not 0 <= profile_index < len(self._model.profiles):
            return self._refuse(f"there is no profile {profile_index}")
        self._profile = profile_index
        self._shapes.clear()
        self._changed()
        return True

    def set_device_memory(self, memory, size):
        if self._profile is None:
            raise self._trt.cuda.misuse("memory before a profile")
        if memory % 256 or size < self._model.scratch_bytes(self._profile):
            raise self._trt.cuda.misuse(f"{size} bytes at {memory:#x} are too few, or not aligned")
        self._memory = memory, size
        self._changed()

    def set_input_shape(self, name, shape):
        if self._profile is None:
            raise self._trt.cuda.misuse("a shape before a profile")
        if name not in self._model.inputs:
            return self._refuse(f"there is no input {name}")
        least, _, most = self._model.limits(name, self._profile)
        if len(shape) != len(least) or not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return self._refuse(f"{name} of shape {shape} is not from {least} to {most}")
        self._shapes[name] = tuple(shape)
        self._changed()
        return True

    def set_tensor_address(self, name, memory):
        if name not in self._model.ports:
            return self._refuse(f"there is no tensor {name}")
        if memory == 0 or memory % 256:
            raise self._trt.cuda.misuse(f"{name} at {memory:#x}, which is not aligned")
        self._addresses[name] = memory
        self._changed()
        return True

    def infer_shapes(self):
        return [name for name in self._model.inputs if name not in self._shapes]

    def get_tensor_shape(self, name):
        if name in self._shapes:
            return self._shapes[name]
        (rows,) = {shape[0] for port, shape in self._shapes.items() if port in {"images", "backbone_features"}}
        return self._model.shape(name, rows, self._shapes["head_weight"][0])

    def execute_async_v3(self, stream_handle):
        trt, cuda, model = self._trt, self._trt.cuda, self._model
        with cuda.lock:
            stream = cuda.stream(stream_handle)
            if self._profile is None or self._memory is None:
                raise cuda.misuse("a run without a profile or without memory")
            if set(self._shapes) != set(model.inputs):
                raise cuda.misuse(f"a run with the shapes of {sorted(self._shapes)} alone")
            if set(self._addresses) != set(model.ports):
                raise cuda.misuse(f"a run with the addresses of {sorted(self._addresses)} alone")
            lengths = {self._shapes[name][0] for name in ("head_weight", "head_bias", "class_bias")}
            if len(lengths) != 1:
                raise cuda.misuse(f"a head of {lengths} classes")
            if trt.refusals:
                trt.refusals -= 1
                return self._refuse("CUDA said no to a kernel")
            if stream.recording is not None and self._settled != self._state.version:
                raise cuda.misuse("a capture of a context that has not run since its shapes were changed")
            version, state = self._state.version, self._state
            shapes = {name: tuple(self.get_tensor_shape(name)) for name in model.ports}
            addresses, memory, profile = dict(self._addresses), self._memory, self._profile

            def place(name: str) -> tuple[int, int]:
                return addresses[name], int(np.prod(shapes[name])) * np.dtype(model.dtype(name)).itemsize

            def read(name: str) -> np.ndarray:
                return cuda.view(*place(name)).view(model.dtype(name)).reshape(shapes[name])

            def run() -> None:
                check()
                cuda.view(*memory)[:] = POISON
                feeds = {name: np.array(read(name)) for name in model.inputs}
                with np.errstate(all="ignore"):
                    found = dict(zip(model.outputs, model.session.run(list(model.outputs), feeds), strict=True))
                found["features"] = found["features"] + np.float32(model.shift)
                for name, value in found.items():
                    assert value.shape == shapes[name]
                    read(name)[...] = value

            def check() -> None:
                if not state.alive:
                    raise cuda.misuse("a context is dropped while its work is queued, or its graph runs later")
                if state.version != version:
                    raise cuda.misuse("a context is changed while its work is queued, or its graph runs later")

            reads = [place(name) for name in model.inputs]
            writes = [*(place(name) for name in model.outputs), memory]
            work = Work(run, reads, writes, kind="enqueue", check=check)
            cuda.enqueue(stream, work)
            if stream.recording is None:
                self._settled = version
            trt.profiles.append(profile)
            trt.buckets.append(shapes["scores"][0])
            return True

    def __del__(self):
        self._state.alive = False
        self._trt.alive["context"] -= 1
