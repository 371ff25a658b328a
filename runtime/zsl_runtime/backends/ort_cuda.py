"""ONNX Runtime on an NVIDIA card: the model graph there, wholly or not at all; the small graphs on the CPU.

Left to itself ONNX Runtime runs on the CPU what it cannot run on the card, all of it where CUDA's libraries are
missing, and says so in its log alone (microsoft/onnxruntime#23372). Here the list of providers holds CUDA and nothing
else, falling back is switched off in the session and in the Python class around it, and the session that comes of it is
asked where it runs. float32 is float32: TF32, which would round to 10 bits, is switched off.
"""

from __future__ import annotations

import io
import threading
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.backends.devices import check_card
from zsl_runtime.backends.ort import DTYPES, SILENT, OrtBackend
from zsl_runtime.errors import BackendError
from zsl_runtime.extras import install, wanting
from zsl_runtime.graphs.ports import HEAD_INPUTS, Port
from zsl_runtime.machine.libraries import tame_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.backends.onnx_graphs import Graphs
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.machine.cards import Card


PROVIDER = "CUDAExecutionProvider"
EXTRA = "gpu"
INSTALL = install(EXTRA)
REPLACE = f"pip uninstall --yes onnxruntime && {INSTALL}"  # the two packages overwrite each other's files
RESIDENT = 2**16  # bytes of weights that are worth keeping on the card; less is copied for each call
KEPT_HEADS = 2  # on the card at once: the one in force, and during a reload the one before it
LIBRARIES = "the libraries of CUDA 13 and cuDNN 9 must be there (the extra `gpu` brings them)"


def check(bundle: Bundle | None, precision: str, card: Card | None) -> None:  # noqa: ARG001  # nothing depends on them
    """Say what stands against running here, without loading anything onto the card.

    Args:
        bundle: whose model is to be run; None to look at the library alone.
        precision: of the model.
        card: where; None to look at the library alone.

    Raises:
        BackendError: E-BACKEND-MISSING, with the line that installs what is missing.
        UsageError: E-PRECISION when the bundle does not hold it.

    """
    from zsl_runtime.graphs.precisions import model_file

    _import()
    if bundle is not None:
        model_file(bundle, precision)


def open_on_card(bundle: Bundle, threads: int, precision: str, card: int) -> OrtCudaBackend:
    """Open the graphs of a bundle; BackendError E-BACKEND-MISSING, E-DEVICE."""
    from zsl_runtime.graphs.parts import SMALL_PARTS
    from zsl_runtime.graphs.precisions import model_file
    from zsl_runtime.graphs.sealed import graph_file

    graphs = {part: graph_file(bundle, part, bundle.graph(part)) for part in SMALL_PARTS}
    model = graph_file(bundle, "model", model_file(bundle, precision))
    return OrtCudaBackend({**graphs, "model": model}, threads, precision, card=card)


def _import() -> Any:
    """The module onnxruntime, of the package that has CUDA; BackendError E-BACKEND-MISSING with the install line."""
    from zsl_runtime.backends.table import version_of

    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            "E-BACKEND-MISSING", f"running the model needs {wanting('onnxruntime', error, EXTRA)}"
        ) from None
    tame_onnxruntime(onnxruntime)
    if PROVIDER not in onnxruntime.get_available_providers():
        line = REPLACE if version_of(["onnxruntime"]) else INSTALL
        raise BackendError(
            "E-BACKEND-MISSING",
            f"onnxruntime {onnxruntime.__version__} is the build for CPUs; for cards: {line}",
        )
    return onnxruntime


def _preload(ort: Any) -> str:
    """Load CUDA's libraries from the nvidia-* packages, which no loader path names; '' or the first that is missing.

    What is missing is printed to stdout, which is for results.
    """
    said = io.StringIO()
    with redirect_stdout(said):
        ort.preload_dlls(directory="")
    missing = [line for line in said.getvalue().splitlines() if "Failed to load" in line]
    return f" ({missing[0].strip()[:200]})" if missing else ""


class OrtCudaBackend(OrtBackend):
    """Runs the model graph with ONNX Runtime's CUDA provider, and no other.

    Args:
        graphs: `model`, `means`, `synthesizer`, `rows`, `lift` -> ONNX file, or None where there is none.
        threads: of the graphs that run on the CPU.
        precision: of the file behind `model`: fp32 or fp16.
        card: N of `cuda:N`.
        search: how cuDNN's algorithms are chosen when a new batch size is met: HEURISTIC at once, EXHAUSTIVE by trying
            them, which takes seconds for each batch size.

    Raises:
        BackendError: E-BACKEND-MISSING when onnxruntime-gpu is not installed, E-DEVICE when there is no such card.

    """

    name = "ort-cuda"
    install = INSTALL

    def __init__(
        self,
        graphs: Graphs,
        threads: int,
        precision: str = "fp32",
        *,
        card: int = 0,
        search: str = "HEURISTIC",
    ) -> None:
        ort = _import()
        self.card = check_card(card)
        super().__init__(graphs, threads, precision)
        self.device = f"cuda:{card}"
        self._search = search
        # What is logged beside a session, for the whole process: that cuDNN has no plan of one kind for a layer, before
        # another kind is taken. A session's level does not hold there, and the lines would go to stderr, in colour.
        ort.set_default_logger_severity(SILENT)
        self._missing = _preload(ort)

    def _load(self, part: str, source: str | bytes) -> Any:
        if part != "model":
            return super()._load(part, source)
        options = self._ort.SessionOptions()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.log_severity_level = SILENT
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = 1  # nothing runs on the CPU
        provider = {
            "device_id": str(self.card.index),
            "use_tf32": "0",
            "cudnn_conv_algo_search": self._search,
            "arena_extend_strategy": "kSameAsRequested",  # not the next power of two: others share the card
        }
        try:
            session = self._ort.InferenceSession(source, options, providers=[(PROVIDER, provider)], enable_fallback=0)
        except Exception as error:
            if "fallback to CPU EP has been explicitly disabled" not in str(error):
                raise
            raise BackendError(
                "E-BACKEND-LOAD",
                f"{self.library} cannot run all of the {part} graph on {self.device}, and nothing is run on the CPU "
                f"instead{self._missing}: {LIBRARIES}, and a bundle of an older version must be exported again; "
                f"{INSTALL}",
            ) from None
        runs_on = session.get_providers()
        if runs_on[:1] != [PROVIDER]:
            raise BackendError(
                "E-DEVICE",
                f"{self.library} did not start on {self.device} (it runs on {', '.join(runs_on)}){self._missing}: "
                f"{LIBRARIES}; {INSTALL}",
            )
        return _CardSession(session, self._ort.OrtValue, self.card.index)


class _CardSession:
    """A graph loaded on a card. The weights of heads stay there; all else is copied for each call."""

    def __init__(self, session: Any, value: Any, card: int) -> None:
        self.session = session
        self._value, self._card = value, card
        self._heads: dict[int, tuple[NDArray[Any], Any]] = {}  # id of an array -> it and its copy on the card
        self._lock = threading.Lock()
        self.inputs = tuple(
            Port(port.name, DTYPES.get(port.type, port.type), tuple(port.shape)) for port in session.get_inputs()
        )
        self.outputs = tuple(port.name for port in session.get_outputs())

    def __call__(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Floats]:
        binding = self.session.io_binding()
        for name, array in feeds.items():
            resident = name == HEAD_INPUTS[0] and array.nbytes >= RESIDENT
            binding.bind_ortvalue_input(name, self._resident(array) if resident else self._copied(array))
        for name in outputs:
            binding.bind_output(name, "cuda", self._card)  # its shape depends on the inputs: allocated by the session
        self.session.run_with_iobinding(binding)
        found: list[Floats] = binding.copy_outputs_to_cpu()
        return found

    def _copied(self, array: NDArray[Any]) -> Any:
        return self._value.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", self._card)

    def _resident(self, array: NDArray[Any]) -> Any:
        """The copy on the card of weights that nobody changes, made at their first use."""
        with self._lock:
            if id(array) not in self._heads:
                while len(self._heads) >= KEPT_HEADS:
                    self._heads.pop(next(iter(self._heads)))
                self._heads[id(array)] = array, self._copied(array)
            return self._heads[id(array)][1]
