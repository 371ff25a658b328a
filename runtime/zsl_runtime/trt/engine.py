"""A plan that TensorRT has loaded: what it takes, how batches fit it, contexts that run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zsl_runtime.errors import ArtefactError, BackendError
from zsl_runtime.graphs.ports import HEAD_INPUTS, InputPort, Port, check_ports
from zsl_runtime.trt.library import Messages

if TYPE_CHECKING:
    from zsl_runtime.trt.cuda import Stream
    from zsl_runtime.trt.library import Library


DTYPES = {"UINT8": "uint8", "FLOAT": "float32"}  # of TensorRT


class Fit(NamedTuple):
    """How a batch runs.

    Attributes:
        profile: index of the optimisation profile.
        rows: of the batch after padding.

    """

    profile: int
    rows: int


class _Range(NamedTuple):
    """Batch sizes and class counts of one optimisation profile."""

    least: int
    most: int
    most_classes: int


class Engine:
    """A deserialised plan of a model graph.

    Args:
        library: that built it.
        plan: its bytes; they have been checked and are trusted.
        where: for messages.

    Attributes:
        inputs: as of a graph.
        outputs: their names.
        input: `images` or `backbone_features`.
        widths: D and F.
        captures: whether we record CUDA graphs; TensorRT-RTX does that itself.

    Raises:
        ArtefactError: E-ENGINE-LOAD when the library does not take it, E-BUNDLE-GRAPH when it is no model of ours.

    """

    def __init__(self, library: Library, plan: bytes, where: str) -> None:
        self._trt = library.module
        self.messages = Messages(library)
        self._runtime: Any = self._trt.Runtime(self.messages.logger)
        self._runtime.engine_host_code_allowed = False
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ArtefactError(
                "E-ENGINE-LOAD",
                f"{library} does not load {where!r}: {self.messages.text()}; build it again with --rebuild",
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        given = [name for name in names if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT]
        self.inputs = tuple(self._port(name) for name in given)
        self.outputs = tuple(name for name in names if name not in given)
        check_ports("model", self, where)
        ports = {name: self._port(name) for name in names}
        wrong = [port for port in ports.values() if port.name != "images" and port.dtype != "float32"]
        if wrong:
            raise ArtefactError(
                "E-BUNDLE-GRAPH",
                f"{where!r} has {wrong[0].name} in {wrong[0].dtype}, expected float32; export it again",
            )
        (port,) = (port for port in self.inputs if port.name not in HEAD_INPUTS)
        self.input = InputPort(port.name, port.dtype, tuple(int(axis or 0) for axis in port.shape[1:]))
        self.widths = int(ports["head_weight"].shape[1] or 0), int(ports["features"].shape[1] or 0)
        self._ranges = tuple(self._range(index) for index in range(self._engine.num_optimization_profiles))
        self.captures = not hasattr(self._trt, "CudaGraphStrategy")

    def _port(self, name: str) -> Port:
        dtype = self._engine.get_tensor_dtype(name).name
        shape = tuple(None if axis < 0 else int(axis) for axis in self._engine.get_tensor_shape(name))
        return Port(name, DTYPES.get(dtype, dtype), shape)

    def _range(self, index: int) -> _Range:
        least, _, most = (int(dims[0]) for dims in self._engine.get_tensor_profile_shape(self.input.name, index))
        classes = int(self._engine.get_tensor_profile_shape("head_weight", index)[2][0])
        return _Range(least, most, classes)

    @property
    def most_rows(self) -> int:
        """The largest batch."""
        return max(one.most for one in self._ranges)

    @property
    def most_classes(self) -> int:
        """The largest head that every profile takes."""
        return min(one.most_classes for one in self._ranges)

    def fit(self, rows: int) -> Fit:
        """The narrowest profile that takes `rows` (at most `most_rows`), and the power of two they are padded to."""
        able = [index for index, one in enumerate(self._ranges) if one.most >= rows]
        profile = min(able, key=lambda index: (self._ranges[index].most, index))
        one = self._ranges[profile]
        return Fit(profile, max(one.least, min(1 << (rows - 1).bit_length(), one.most)))

    def scratch_bytes(self, profile: int) -> int:
        """Memory that a context of this profile needs for what is between layers."""
        return int(self._engine.get_device_memory_size_for_profile_v2(profile))

    def make_context(self, profile: int, stream: Stream) -> Any:
        """A context of one profile, without memory; BackendError E-BACKEND-RUN."""
        self.messages.clear()
        unmanaged = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.captures:
            context = self._engine.create_execution_context(unmanaged)
        else:  # TensorRT-RTX compiles kernels for a shape when it first meets it, and knows when to record its graph
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(unmanaged)
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
            context = self._engine.create_execution_context(config)
        if context is None or not context.set_optimization_profile_async(profile, stream.address):
            context = None  # whoever keeps the error keeps this frame
            raise self.failure("make a context")
        return context

    def failure(self, doing: str) -> BackendError:
        """What the library logged, as our error."""
        return BackendError(
            "E-BACKEND-RUN",
            f"TensorRT could not {doing}: {self.messages.text()}; try a smaller batch, or another --backend",
        )

    def close(self) -> None:
        """Let go of the engine and then of its runtime; no context may be left."""
        self._engine = None
        self._runtime = None
