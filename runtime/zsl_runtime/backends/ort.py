"""ONNX Runtime on the CPU: fp32, and the files of other precisions that it can run as they are.

Its defaults suit a machine of one's own: as many threads as the machine has, which spin while they wait. In a
container, or beside any other process, that is about twice as slow as a single thread, so both are set explicitly here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsl_runtime.backends.onnx_graphs import GraphBackend
from zsl_runtime.errors import BackendError
from zsl_runtime.extras import install, wanting
from zsl_runtime.graphs.ports import Port
from zsl_runtime.machine.libraries import tame_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.backends.onnx_graphs import Graphs


EXTRA = "cpu"
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
SILENT = 4  # ONNX Runtime's severity "fatal": what it would log, it also raises, and we print that once


def open_graphs(graphs: Graphs, threads: int, precision: str) -> OrtBackend:
    """Open the graphs of a bundle; BackendError E-BACKEND-MISSING when onnxruntime is not installed."""
    return OrtBackend(graphs, threads, precision)


def import_onnxruntime() -> Any:
    """The module onnxruntime; BackendError E-BACKEND-MISSING, with the install line, when it cannot be imported."""
    try:
        import onnxruntime

        onnxruntime.InferenceSession  # noqa: B018  # two builds that overwrote each other may leave a module without it
    except (Exception, SystemExit) as error:  # a damaged library raises anything
        raise BackendError(
            "E-BACKEND-MISSING", f"running the model needs {wanting('onnxruntime', error, EXTRA)}"
        ) from None
    tame_onnxruntime(onnxruntime)
    return onnxruntime


class OrtBackend(GraphBackend):
    """Runs graphs with ONNX Runtime's CPU provider, and no other: nothing can fall back silently.

    Args:
        graphs: `model`, `means`, `synthesizer`, `rows`, `lift` -> ONNX file, or None where there is none.
        threads: inside one operator; operators run one after the other.
        precision: of the file behind `model`.
        optimize: let ONNX Runtime rewrite the graphs before it runs them.

    Raises:
        BackendError: E-BACKEND-MISSING when onnxruntime is not installed.

    """

    name = "ort"
    install = install(EXTRA)

    def __init__(self, graphs: Graphs, threads: int, precision: str = "fp32", *, optimize: bool = True) -> None:
        self._ort = import_onnxruntime()
        super().__init__(graphs, threads, precision)
        self.library = f"onnxruntime {self._ort.__version__}"
        self._optimize = optimize

    def _load(self, part: str, source: str | bytes) -> _Session:  # noqa: ARG002  # one kind of session for all graphs
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = SILENT
        # All is its default, but what runs must not depend on a default. The rewritten graph is not kept on the disk:
        # it may only be run on the CPU that made it, and loading the original costs little more.
        levels = self._ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if self._optimize else levels.ORT_DISABLE_ALL
        # Its fallback, from the CPU to the CPU, would print what went wrong to stdout, among the results.
        session = self._ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        return _Session(session)


class _Session:
    """A loaded graph."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.inputs = tuple(
            Port(port.name, DTYPES.get(port.type, port.type), tuple(port.shape)) for port in session.get_inputs()
        )
        self.outputs = tuple(port.name for port in session.get_outputs())

    def __call__(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Floats]:
        return list(self.session.run(list(outputs), dict(feeds)))
