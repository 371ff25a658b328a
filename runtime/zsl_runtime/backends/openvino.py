"""OpenVINO on the CPU: fp32, bf16 on CPUs that have it, and the files of other precisions.

Its defaults suit a machine of one's own. They take the CPU's fastest precision, whatever that does to the answers; they
bind threads to the same first cores in every process; and they count CPUs that a cgroup quota does not grant
(openvinotoolkit/openvino#37838). Here the precision and the number of threads are always given, and nothing is bound.
"""

from __future__ import annotations

import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.backends.onnx_graphs import GraphBackend
from zsl_runtime.errors import BackendError
from zsl_runtime.extras import install, wanting
from zsl_runtime.graphs.ports import Port, output_names

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.backends.onnx_graphs import Graphs


EXTRA = "openvino"
DTYPES = {"u8": "uint8", "f32": "float32"}
HINTS = {"bf16": "bf16"}  # of the model graph by precision; all else computes, where it is not quantised, in float32
_TOOLS = "openvino.tools.ovc"  # the model converter: its import writes to the home folder and reports to a server
_importing = threading.Lock()


def open_graphs(graphs: Graphs, threads: int, precision: str) -> OpenVinoBackend:
    """Open the graphs of a bundle; BackendError E-BACKEND-MISSING when openvino is not installed."""
    return OpenVinoBackend(graphs, threads, precision)


def import_openvino() -> Any:
    """The module openvino, without its model converter.

    Importing the converter, which the package does by itself, writes an identifier to ~/intel and sends a message that
    the package was imported. A runtime does neither: the import is kept from it, as if it were not installed.

    Raises:
        BackendError: E-BACKEND-MISSING, with the install line, when it cannot be imported.

    """
    try:
        with _importing, _without(_TOOLS):
            import openvino

            openvino.Core  # noqa: B018  # an uninstalled package may leave a module without it
    except (Exception, SystemExit) as error:  # a damaged library raises anything
        raise BackendError(
            "E-BACKEND-MISSING", f"running the model needs {wanting('openvino', error, EXTRA)}"
        ) from None
    return openvino


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Let imports of `module` fail, unless it has been imported already; afterwards it can be imported."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # how Python marks what must not be found
    try:
        yield
    finally:
        sys.modules.pop(module, None)


def _open_core(openvino: Any) -> tuple[Any, Collection[str]]:
    """A Core with its CPU device loaded, and what that device can do; loaded in a thread that ends at once.

    The device gives the thread that loads it a stack for signals, and frees that stack when it is dropped. Dropped in
    another thread, it would leave the loading one with a stack that is gone, and the next Ctrl-C would end the process.
    """

    def load() -> tuple[Any, Collection[str]]:
        core = openvino.Core()
        return core, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load).result()


class OpenVinoBackend(GraphBackend):
    """Runs graphs with OpenVINO's CPU device, and no other.

    Args:
        graphs: `model`, `means`, `synthesizer`, `rows`, `lift` -> ONNX file, or None where there is none.
        threads: of one inference; calls from several threads wait for each other, so there are never more than these.
        precision: of the model graph: fp32, fp16 and int8 are files; bf16 is how the fp32 file is run.

    Raises:
        BackendError: E-BACKEND-MISSING when openvino is not installed; E-PRECISION-CPU for bf16 on a CPU without it.

    """

    name = "openvino"
    install = install(EXTRA)

    def __init__(self, graphs: Graphs, threads: int, precision: str = "fp32") -> None:
        self._openvino = import_openvino()
        super().__init__(graphs, threads, precision)
        self.library = f"openvino {self._openvino.get_version().partition('-')[0]}"  # without the build
        self._core, capabilities = _open_core(self._openvino)
        if precision == "bf16" and "BF16" not in capabilities:
            raise BackendError(
                "E-PRECISION-CPU",
                "this CPU has no bf16 instructions (AVX512_BF16 or AMX), so bf16 would be slower than fp32; "
                "use --precision fp32, or int8 where the bundle holds it",
            )

    def _load(self, part: str, source: str | bytes) -> _Compiled:
        hint = HINTS.get(self.precision, "f32") if part == "model" else "f32"
        # Its frontend by name: left to itself, the library tries all that it has, and each has something to print.
        frontend = self._openvino.frontend.FrontEndManager().load_by_framework("onnx")
        compiled = self._core.compile_model(
            frontend.convert(frontend.load(source if isinstance(source, str) else io.BytesIO(source))),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": hint,
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # no quantisation but that of the file
                "INFERENCE_NUM_THREADS": self._threads,
                # One stream: all threads work on one inference, and further ones queue.
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                # Bound threads of two processes share the same first cores while the others idle.
                "ENABLE_CPU_PINNING": False,
            },
        )
        return _Compiled(compiled, self._openvino, output_names(part))


class _Compiled:
    """A loaded graph with its idle inference requests: one request holds the memory of one call."""

    def __init__(self, compiled: Any, openvino: Any, known: Collection[str]) -> None:
        self.compiled = compiled
        self._tensor = openvino.Tensor
        self.inputs = tuple(_port(port) for port in compiled.inputs)
        # A tensor that passes an operator unchanged, such as a padding of nothing, bears the names before and after it.
        self._outputs: dict[str, int] = {}
        for index, port in enumerate(compiled.outputs):
            names = port.get_names()
            for name in names & set(known) or sorted(names)[:1]:
                self._outputs[name] = index
        self.outputs = tuple(self._outputs)
        self._idle: list[Any] = []

    def __call__(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Floats]:
        # Appending to and popping from a list is atomic, so no lock is needed.
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        # Shared, not copied: the request reads this very memory until `infer` returns, and keeps no hold of it. It
        # takes writable arrays only, though it does not write.
        dense = {name: np.require(array, requirements=["C", "W"]) for name, array in feeds.items()}
        for name, array in dense.items():
            request.set_tensor(name, self._tensor(array, shared_memory=True))
        request.infer(share_outputs=True)  # they are copied below, those that are wanted
        found = [np.array(request.get_output_tensor(self._outputs[name]).data) for name in outputs]
        self._idle.append(request)  # one that failed is dropped
        return found


def _port(port: Any) -> Port:
    dtype = port.get_element_type().get_type_name()
    axes = tuple(None if axis.is_dynamic else axis.get_length() for axis in port.get_partial_shape())
    return Port(port.get_any_name(), DTYPES.get(dtype, dtype), axes)
