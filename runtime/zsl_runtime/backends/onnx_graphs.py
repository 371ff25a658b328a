"""What all backends that run ONNX files share: the graphs' contract, its checks, and one way to call them."""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np

from zsl_runtime.errors import ArtefactError, BackendError
from zsl_runtime.graphs.parts import EXPLAIN
from zsl_runtime.graphs.ports import HEAD_INPUTS, InputPort, Ported, check_array, check_head, check_ports, common_length
from zsl_runtime.graphs.sealed import GraphFile, sealed
from zsl_runtime.machine.processes import OfThisProcess

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.head.head import FoldedHead

Graphs: TypeAlias = "Mapping[str, GraphFile | Path | None]"  # part -> its file, with what its bundle tells of it or not

# What the libraries say where they are well and the system is not.
SCARCE = re.compile("bad_alloc|pthread_create|start new thread|[Ff]ailed to allocate|[Cc]annot allocate|out of memory")
# And what they say of a graph that is none: ONNX Runtime's classes and words, and those of OpenVINO's frontend.
INVALID = re.compile(
    "^InvalidGraph|^InvalidProtobuf|INVALID_GRAPH|INVALID_PROTOBUF|[Tt]ype ?Error|ShapeInferenceError"
    "|not a registered|an invalid model|^OpValidationFailure|^OpConversionFailure|While validating|[Ee]rror parsing"
)


class LoadedGraph(Ported, Protocol):
    """A graph that its library has loaded. It may be called from several threads at once."""

    def __call__(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Floats]:
        """The named outputs, float32, for arrays that were checked; raises whatever the library raises."""
        ...


class GraphBackend(OfThisProcess, ABC):
    """A `Backend` over ONNX files; a subclass says how its library loads one.

    Args:
        graphs: `model`, `means`, `synthesizer`, `rows`, `lift` -> ONNX file, or None where there is none. Each is
            checked when it is loaded (`zsl_runtime.graphs.check`).
        threads: that one call may use.
        precision: of the model graph; the other graphs always run in fp32, so that heads are the same everywhere.

    """

    name: ClassVar[str]
    device: str = "cpu"
    install: ClassVar[str]  # the line that installs the library
    library: str  # its name and version

    def __init__(self, graphs: Graphs, threads: int, precision: str = "fp32") -> None:
        super().__init__()
        self.precision = precision
        self._graphs = {
            part: file if file is None or isinstance(file, GraphFile) else GraphFile(Path(file))
            for part, file in graphs.items()
        }
        self._threads = threads
        self._loaded: dict[str, LoadedGraph] = {}
        self._lock = threading.Lock()

    @abstractmethod
    def _load(self, part: str, source: str | bytes) -> LoadedGraph:
        """Load a graph from a path or from bytes, and keep neither; raises whatever the library raises."""

    def input_port(self) -> InputPort:
        """What `run` and `features` take, as the model graph itself says."""
        (port,) = (port for port in self._graph("model").inputs if port.name not in HEAD_INPUTS)
        return InputPort(port.name, port.dtype, tuple(int(axis or 0) for axis in port.shape[1:]))

    def run(self, inputs: NDArray[np.generic], head: FoldedHead) -> tuple[Floats, Floats]:
        """Inputs (N, ...) -> log-probabilities (N, C) and features (N, F), float32."""
        check_head(head)
        feeds = {"head_weight": head.weight, "head_bias": head.bias, "class_bias": head.class_bias}
        known = HEAD_INPUTS if head.is_finite else ("class_bias",)
        scores, features = self._run("model", ["scores", "features"], {self.input_port().name: inputs, **feeds}, known)
        return scores, features

    def features(self, inputs: NDArray[np.generic]) -> Floats:
        """Inputs (N, ...) -> features (N, F) float32."""
        width = next(port.shape[1] for port in self._graph("model").inputs if port.name == "head_weight")
        one_class = np.zeros((1, int(width or 0)), np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32)
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

    def means(self, semantic: Floats) -> Floats:
        """Semantic vectors (M, A) -> the classes' means (M, D) in canonical coordinates, float32."""
        (means,) = self._run("means", ["means"], {"semantic": semantic})
        return means

    def lift(self, features: Floats) -> Floats:
        """Features (M, F) -> lifted features (M, D), float32; the features themselves when there is no lift."""
        if self._graphs.get("lift") is None:
            return features
        (lifted,) = self._run("lift", ["lifted"], {"features": features})
        return lifted

    def maps(self, inputs: NDArray[np.generic]) -> Floats:
        """Inputs (N, ...) -> for each attribute how attention lies over the regions, (N, A, R) float32."""
        (port,) = self._graph(EXPLAIN).inputs
        (maps,) = self._run(EXPLAIN, ["maps"], {port.name: inputs})
        return maps

    def close(self) -> None:
        """Let go of the loaded graphs; in a forked child nothing is done."""
        if not self.is_at_home:
            return
        with self._lock:
            self._loaded.clear()

    def _graph(self, part: str) -> LoadedGraph:
        self.check_at_home()
        with self._lock:
            if part not in self._loaded:
                self._loaded[part] = self._checked(part)
            return self._loaded[part]

    def _checked(self, part: str) -> LoadedGraph:
        file = self._graphs.get(part)
        if file is None:
            raise ArtefactError("E-BUNDLE-GRAPH", f"this bundle has no {part} graph; export the model again")
        with sealed(file, part) as source:
            graph = self._loaded_from(part, source, file.path)
        check_ports(part, graph, str(file.path))
        return graph

    def _loaded_from(self, part: str, source: str | bytes, path: Path) -> LoadedGraph:
        """The graph that a library makes of a file that was checked."""
        try:
            return self._load(part, source)
        except BackendError:
            raise
        except Exception as error:  # what the libraries raise has no public class in common
            said = reason(error)
            said = said if isinstance(source, bytes) else said.replace(source, path.name)
            if SCARCE.search(str(error)):
                remedy = "the system gives this process no more memory or threads: free some, or raise the limit"
            elif not isinstance(error, TypeError) and INVALID.search(f"{type(error).__name__}: {error}"):
                # No other library is given it. (A TypeError is Python's, of another version's arguments.)
                raise ArtefactError(
                    "E-BUNDLE-GRAPH",
                    f"{str(path)!r} is not a graph that may be run: {self.library} says {said}; copy or export the "
                    "bundle again",
                ) from None
            else:
                remedy = f"upgrade it with: {self.install} --upgrade"
            raise BackendError(
                "E-BACKEND-LOAD", f"{self.library} cannot load {str(path)!r}: {said}; {remedy}"
            ) from None

    def _run(
        self,
        part: str,
        outputs: list[str],
        feeds: dict[str, NDArray[Any]],
        known: Collection[str] = ("class_bias",),
    ) -> list[Floats]:
        graph = self._graph(part)
        for port in graph.inputs:
            check_array(port, feeds[port.name], known)
        rows = common_length(part, {name: array for name, array in feeds.items() if name not in HEAD_INPUTS})
        try:
            found = graph(outputs, feeds)
        except Exception as error:
            raise BackendError(
                "E-BACKEND-RUN", f"{self.library} failed in the {part} graph: {reason(error)}; try a smaller batch"
            ) from None
        # Not every library notices that the shapes inside a graph do not fit: it may hand out memory it never wrote.
        lengths = {name: len(array) for name, array in zip(outputs, found, strict=True)}
        if set(lengths.values()) != {rows}:
            raise BackendError(
                "E-BACKEND-RUN",
                f"{self.library} made {lengths} rows of {rows} in the {part} graph; export the model again, "
                "or try another --backend",
            )
        return found


def reason(error: Exception) -> str:
    """What a library has to say, in one line: without the lines that only name places in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from ", "Check '", "FrontEnd API "))] or lines
    return (said or [type(error).__name__])[0][:300]
