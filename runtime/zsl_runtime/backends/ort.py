"""ONNX Runtime on the CPU.

Its defaults suit a machine of one's own: as many threads as the machine has, which spin while they wait. In a
container, or beside any other process, that is about twice as slow as a single thread, so both are set explicitly here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.backends import InputPort
from zsl_runtime.errors import ArtefactError, BackendError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from zsl_runtime.bundle import Bundle
    from zsl_runtime.head import FoldedHead

    Floats = NDArray[np.float32]

INSTALL = 'pip install "zsl-deploy[cpu]"'
HEAD_INPUTS = ("head_weight", "head_bias", "class_bias")
INPUTS = {  # of each graph; either set, where there are two
    "model": ({"images", *HEAD_INPUTS}, {"backbone_features", *HEAD_INPUTS}),
    "synthesizer": ({"semantic", "noise"},),
    "rows": ({"semantic"},),
    "lift": ({"features"},),
}
OUTPUTS = {
    "model": {"scores", "features"},
    "synthesizer": {"features"},
    "rows": {"weight", "bias"},
    "lift": {"lifted"},
}
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
SILENT = 4  # ONNX Runtime's severity "fatal": what it would log, it also raises, and we print that once


def open_bundle(bundle: Bundle, threads: int) -> OrtBackend:
    """Open the graphs of a bundle; BackendError E-BACKEND-MISSING when onnxruntime is not installed."""
    return OrtBackend({part: bundle.graph(part) for part in INPUTS}, threads)


def import_onnxruntime() -> Any:
    """The module onnxruntime; BackendError E-BACKEND-MISSING, with the install line, when it cannot be imported."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            "E-BACKEND-MISSING", f"onnxruntime cannot be imported ({error}); install it with: {INSTALL}"
        ) from None
    return onnxruntime


class OrtBackend:
    """Runs graphs with ONNX Runtime's CPU provider, and no other: nothing can fall back silently.

    Args:
        graphs: `model`, `synthesizer`, `rows`, `lift` -> ONNX file, or None where there is none.
        threads: inside one operator; operators run one after the other.
        optimize: let ONNX Runtime rewrite the graphs before it runs them.

    Raises:
        BackendError: E-BACKEND-MISSING when onnxruntime is not installed.

    """

    name = "ort"

    def __init__(self, graphs: Mapping[str, Path | None], threads: int, *, optimize: bool = True) -> None:
        self._ort = import_onnxruntime()
        self.library = f"onnxruntime {self._ort.__version__}"
        self._graphs = dict(graphs)
        self._threads = threads
        self._optimize = optimize
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    def input_port(self) -> InputPort:
        """What `run` and `features` take, as the model graph itself says."""
        (port,) = (port for port in self._session("model").get_inputs() if port.name not in HEAD_INPUTS)
        return InputPort(port.name, DTYPES.get(port.type, port.type), tuple(port.shape[1:]))

    def run(self, inputs: NDArray[np.generic], head: FoldedHead) -> tuple[Floats, Floats]:
        """Inputs (N, ...) -> log-probabilities (N, C) and features (N, F), float32."""
        feeds = {"head_weight": head.weight, "head_bias": head.bias, "class_bias": head.class_bias}
        known = HEAD_INPUTS if head.is_finite else ("class_bias",)
        scores, features = self._run("model", ["scores", "features"], {self.input_port().name: inputs, **feeds}, known)
        return scores, features

    def features(self, inputs: NDArray[np.generic]) -> Floats:
        """Inputs (N, ...) -> features (N, F) float32."""
        width = next(port.shape[1] for port in self._session("model").get_inputs() if port.name == "head_weight")
        one_class = np.zeros((1, width), dtype=np.float32), np.zeros(1, dtype=np.float32), np.zeros(1, dtype=np.float32)
        feeds = dict(zip(HEAD_INPUTS, one_class, strict=True))
        (features,) = self._run("model", ["features"], {self.input_port().name: inputs, **feeds})
        return features

    def synthesize(self, semantic: Floats, noise: Floats) -> Floats:
        """Semantic vectors (M, A) and noise (M, Z) -> features (M, F), all float32."""
        (features,) = self._run("synthesizer", ["features"], {"semantic": semantic, "noise": noise})
        return features

    def rows(self, semantic: Floats) -> tuple[Floats, Floats]:
        """Semantic vectors (M, A) -> weights (M, D) and biases (M,) of the classes' rows, all float32."""
        weight, bias = self._run("rows", ["weight", "bias"], {"semantic": semantic})
        return weight, bias

    def lift(self, features: Floats) -> Floats:
        """Features (M, F) -> lifted features (M, D), float32; the features themselves when there is no lift."""
        if self._graphs.get("lift") is None:
            return features
        (lifted,) = self._run("lift", ["lifted"], {"features": features})
        return lifted

    def close(self) -> None:
        """Let go of the loaded graphs."""
        with self._lock:
            self._sessions.clear()

    def _session(self, part: str) -> Any:
        with self._lock:
            if part not in self._sessions:
                self._sessions[part] = self._load(part)
            return self._sessions[part]

    def _load(self, part: str) -> Any:
        path = self._graphs.get(part)
        if path is None:
            raise ArtefactError("E-BUNDLE-GRAPH", f"this bundle has no {part} graph; export the model again")
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = SILENT
        if not self._optimize:
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = self._ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # one class per status code, none of them public
            raise BackendError(
                "E-BACKEND-LOAD",
                f"{self.library} cannot load {str(path)!r}: {_first_line(error)}; upgrade it with: {INSTALL} --upgrade",
            ) from None
        _check_ports(part, session, str(path))
        return session

    def _run(
        self,
        part: str,
        outputs: list[str],
        feeds: dict[str, NDArray[Any]],
        known: Collection[str] = ("class_bias",),
    ) -> list[Floats]:
        session = self._session(part)
        for port in session.get_inputs():
            _check_array(port, feeds[port.name], known)
        lengths = {name: len(array) for name, array in feeds.items() if name not in HEAD_INPUTS}
        if len(set(lengths.values())) != 1:
            raise UsageError("E-INPUT-ARRAY", f"inputs of the {part} graph have different lengths: {lengths}")
        try:
            return list(session.run(outputs, feeds))
        except Exception as error:
            raise BackendError(
                "E-BACKEND-RUN", f"{self.library} failed in the {part} graph: {_first_line(error)}; try a smaller batch"
            ) from None


def _check_ports(part: str, session: Any, path: str) -> None:
    """ArtefactError E-BUNDLE-GRAPH unless the graph's inputs and outputs are those of ARCHITECTURE.md, Graphs."""
    inputs = {port.name for port in session.get_inputs()}
    outputs = {port.name for port in session.get_outputs()}
    if inputs not in INPUTS[part] or outputs != OUTPUTS[part]:
        wanted = " or ".join(str(sorted(names)) for names in INPUTS[part])
        raise ArtefactError(
            "E-BUNDLE-GRAPH",
            f"{path!r} goes from {sorted(inputs)} to {sorted(outputs)}; expected {wanted} to {sorted(OUTPUTS[part])}; "
            "export the model again",
        )


def _check_array(port: Any, array: object, known: Collection[str]) -> None:
    """UsageError E-INPUT-ARRAY unless `array` is what the graph declares for `port`; those of `known` are finite."""
    dtype = DTYPES.get(port.type, port.type)
    given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or len(array) == 0
        or len(array.shape) != len(port.shape)
        or any(isinstance(axis, int) and axis != size for axis, size in zip(port.shape, array.shape, strict=True))
    ):
        wanted = ", ".join(str(axis) for axis in port.shape)
        raise UsageError("E-INPUT-ARRAY", f"{port.name} is {given}; expected {dtype} ({wanted}) with at least one row")
    # A class filter puts -inf into class_bias; everywhere else it would only surface as NaN in every score. Of a head
    # that has been looked at: ten thousand rows take longer to look at than to multiply.
    if dtype == "float32" and port.name not in known and not np.isfinite(array).all():
        raise UsageError("E-INPUT-ARRAY", f"{port.name} holds NaN or infinity; expected finite numbers")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
