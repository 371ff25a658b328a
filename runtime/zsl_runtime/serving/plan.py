"""The model graph in Triton's TensorRT backend: the head goes along with every batch, so that the plan stays as it is.

A call inside the server (business logic scripting) replaces the graph of our own; the small graphs run on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.backends.opening import open_small_graphs
from zsl_runtime.errors import BackendError
from zsl_runtime.graphs.ports import HEAD_INPUTS, InputPort, check_array, ports_of
from zsl_runtime.head.head import FoldedHead
from zsl_runtime.labelling.classifier import Classifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.bundle.bundle import Bundle

ANSWERS = ("scores", "features")


def open_with_plan(bundle: Bundle, utils: Any, plan: str, precision: str | None, threads: int) -> Classifier:
    """A Classifier whose graph is the model `plan` of the same server.

    Args:
        bundle: open.
        utils: Triton's module `triton_python_backend_utils`.
        plan: the model's name.
        precision: of the plan, for the log; None for the bundle's default.
        threads: for the small graphs and for decoding.

    Raises:
        ZslError: as of `Classifier.open`; BackendError E-BACKEND-RUN when the plan does not answer.

    """
    small = open_small_graphs(bundle, threads=threads)
    return Classifier(bundle, PlanBackend(bundle, utils, plan, precision or bundle.default_precision, small), threads)


class PlanBackend:
    """A `Backend` whose model graph runs in another model of the server; call it in the thread of `execute` alone."""

    def __init__(self, bundle: Bundle, utils: Any, plan: str, precision: str, small: Backend) -> None:
        """`small` runs all other graphs."""
        self._utils = utils
        self._plan = plan
        self._small = small
        self._ports = ports_of(bundle, "model")
        self._lifted = int(bundle.manifest["dims"]["D"])
        self.name = "triton"
        self.library = f"Triton's model {plan}"
        self.device = "cuda"
        self.precision = precision

    def input_port(self) -> InputPort:
        """What `run` and `features` take."""
        port = self._ports.inputs[0]
        return InputPort(port.name, port.dtype, tuple(int(size or 0) for size in port.shape[1:]))

    def run(self, inputs: NDArray[np.generic], head: FoldedHead) -> tuple[Floats, Floats]:
        """Inputs (N, ...) -> log-probabilities (N, C) and features (N, F)."""
        check_array(self._ports.inputs[0], inputs)
        utils = self._utils
        arrays = (inputs, head.weight, head.bias, head.class_bias)
        tensors = [
            utils.Tensor(name, np.ascontiguousarray(array))
            for name, array in zip((self._ports.inputs[0].name, *HEAD_INPUTS), arrays, strict=True)
        ]
        asked = utils.InferenceRequest(
            model_name=self._plan,
            requested_output_names=list(ANSWERS),
            inputs=tensors,
            preferred_memory=utils.PreferredMemory(utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        try:
            answer = asked.exec()
            if answer.has_error():
                raise self._failed(answer.error().message())
            scores, features = (_on_cpu(utils.get_output_tensor_by_name(answer, name)) for name in ANSWERS)
        except utils.TritonModelException as error:
            raise self._failed(str(error)) from None
        if scores.shape != (len(inputs), len(head.bias)) or len(features) != len(inputs):
            raise self._failed(f"it answered with scores {scores.shape} and features {features.shape}")
        return scores, features

    def _failed(self, said: str) -> BackendError:
        return BackendError("E-BACKEND-RUN", f"Triton's model {self._plan} could not run a batch: {said}")

    def features(self, inputs: NDArray[np.generic]) -> Floats:
        """Inputs (N, ...) -> features (N, F): one class of zeros stands for a head."""
        nothing = FoldedHead(np.zeros((1, self._lifted), np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32))
        return self.run(inputs, nothing)[1]

    def synthesize(self, semantic: Floats, noise: Floats) -> Floats:
        """As of `Backend`, on the CPU; so are the others."""
        return self._small.synthesize(semantic, noise)

    def rows(self, semantic: Floats) -> tuple[Floats, Floats]:
        """Rows of classes."""
        return self._small.rows(semantic)

    def means(self, semantic: Floats) -> Floats:
        """Means of classes."""
        return self._small.means(semantic)

    def lift(self, features: Floats) -> Floats:
        """Lifted features."""
        return self._small.lift(features)

    def close(self) -> None:
        """Let go of the small graphs; the plan is the server's."""
        self._small.close()


def _on_cpu(tensor: Any) -> Floats:
    """A tensor of Triton as an array; it was asked for in the CPU's memory."""
    if not tensor.is_cpu():
        raise BackendError(
            "E-BACKEND-RUN", f"{tensor.name()} came in a card's memory, which this Triton was asked not to do"
        )
    array: Floats = tensor.as_numpy()
    return array
