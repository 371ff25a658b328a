"""The Python backend of NVIDIA's Triton: requests of tensors in, the best classes of each picture out.

`zsl-export --format triton` writes a model.py of a few lines whose class is `Model`, with Triton's own module
`triton_python_backend_utils`, which exists inside the server alone, as its `utils` (docs/how-to/triton.md).
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ArtefactError, BackendError, UsageError, ZslError, listed, nearest, shown
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.labelling.snapshot import CLASS_FILTERS
from zsl_runtime.machine.threads import usable_cpus
from zsl_runtime.serving.batcher import MOST_PICTURE_BYTES, Asked, Batcher, Square, Told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zsl_runtime.graphs.ports import InputPort

ENCODED = "encoded"  # the input of picture files
DTYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
# Outputs: name, type, shape of one picture; -1 is k, the number of classes that were asked for.
OUTPUTS = (
    ("names", "TYPE_STRING", -1),
    ("ids", "TYPE_INT64", -1),
    ("seen", "TYPE_BOOL", -1),
    ("probabilities", "TYPE_FP32", -1),
    ("distances", "TYPE_FP32", -1),
    ("distance", "TYPE_FP32", 1),
    ("far", "TYPE_BOOL", 1),
    ("error", "TYPE_STRING", 1),
    ("generation", "TYPE_INT64", 1),
)
REQUEST_PARAMETERS = ("topk", "classes")


@dataclass(frozen=True)
class Settings:
    """The `parameters` of config.pbtxt, read.

    Attributes:
        bundle: its folder; a relative path begins at the model's version folder.
        backend: as of `Classifier.open`; so are the next three.
        device: where the graph runs.
        precision: None for the bundle's default.
        threads: None for the CPUs of this machine, divided among the instances.
        topk: classes of each picture where a request does not say.
        most_bytes: of one encoded picture.
        plan: name of the model that runs the graph in Triton's TensorRT backend; '' for a graph of our own.
        require_signature: public keys that the bundle must be signed by; '' for none but those of the environment.

    """

    bundle: str
    backend: str = "auto"
    device: str = "cpu"
    precision: str | None = None
    threads: int | None = None
    topk: int = 5
    most_bytes: int = MOST_PICTURE_BYTES
    plan: str = ""
    require_signature: str = ""

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> Settings:
        """Of the object that Triton makes of `parameters`; an empty value is that of a parameter that is left out.

        Raises:
            UsageError: E-TRITON-CONFIG.

        """
        given = {name: str(value["string_value"]) for name, value in parameters.items()}
        given = {name: value for name, value in given.items() if value and name != "EXECUTION_ENV_PATH"}
        numbers = {"threads": "threads", "topk": "topk", "max_picture_bytes": "most_bytes"}
        words = {"bundle", "backend", "device", "precision", "plan", "require_signature"}
        wrong = sorted(given.keys() - words - numbers.keys())
        if wrong:
            hint = nearest(wrong[0], words | numbers.keys())
            raise UsageError("E-TRITON-CONFIG", f"config.pbtxt has unknown parameters: {listed(wrong)}{hint}")
        if "bundle" not in given:
            raise UsageError("E-TRITON-CONFIG", "config.pbtxt has no parameter bundle; give the bundle's folder")
        whole = {field: _count(name, given[name]) for name, field in numbers.items() if name in given}
        return cls(**{name: given[name] for name in words & given.keys()}, **whole)  # type: ignore[arg-type]


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:18]) > 0 and len(text) < 18):
        raise UsageError(
            "E-TRITON-CONFIG", f"config.pbtxt: {name} is {shown(text)}, expected a whole number of at least 1"
        )
    return int(text)


class Model:
    """What Triton calls: `initialize` once, `execute` with the requests that it put together, `finalize`.

    Attributes:
        utils: Triton's module `triton_python_backend_utils`.

    """

    utils: Any

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle; what stands against it is one line of the server's log, and the model is not loaded."""
        try:
            self._open(args)
        except ZslError as error:
            raise self.utils.TritonModelException(str(error)) from None

    def _open(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.settings = settings = Settings.read(config.get("parameters", {}))
        folder = Path(args["model_repository"]) / args["model_version"] / settings.bundle
        bundle = Bundle.open(folder, require_signature=settings.require_signature or None)
        self.classifier = self._classifier(bundle, _threads(settings, config))
        self.port = self.classifier.input_port
        check_inputs(config["input"], self.port)
        self.batcher = Batcher(self.classifier, self._tell, settings.most_bytes)
        self.outputs = {str(one["name"]) for one in config["output"]}
        if not settings.plan:  # which can only be called from `execute`; config.pbtxt has a warm-up of Triton's own
            self.classifier.warmup()
        backend = self.classifier.backend
        self._tell(
            f"{folder.resolve()}: generation {self.classifier.generation}, {len(self.classifier.class_table)} classes, "
            f"by {backend.library} on {backend.device} in {backend.precision}, threads {self.classifier.threads}"
        )

    def _classifier(self, bundle: Bundle, threads: int) -> Classifier:
        settings = self.settings
        if settings.plan:
            from zsl_runtime.serving.plan import open_with_plan

            return open_with_plan(bundle, self.utils, settings.plan, settings.precision, threads)
        return Classifier.open(bundle, settings.backend, settings.device, threads, settings.precision)

    def _tell(self, line: str) -> None:
        self.utils.Logger.log_info(f"zsl-deploy: {line}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request, in order. A request that is wrong is told so, alone."""
        asked: list[Asked | ZslError] = []
        for request in requests:
            try:
                asked.append(self._asked(request))
            except ZslError as error:
                asked.append(error)
                if isinstance(error, BackendError):  # of no request in particular
                    self.utils.Logger.log_error(f"zsl-deploy: {error}")
        answers = iter(self._answers([one for one in asked if isinstance(one, Asked)]))
        told = [next(answers) if isinstance(one, Asked) else one for one in asked]
        return [self._response(request, one) for request, one in zip(requests, told, strict=True)]

    def _answers(self, asked: Sequence[Asked]) -> Sequence[Told | ZslError | str]:
        """The answers; after a bug or for want of memory one text for all, and the log has the rest."""
        try:
            return self.batcher.answer(asked)
        except Exception as error:
            said = f"E-BUG: this is a bug in zsl-deploy ({type(error).__name__}); the server's log says more"
            if isinstance(error, MemoryError):
                said = "E-SYSTEM: the server's memory is not enough for this; send fewer pictures at once"
            self.utils.Logger.log_error(f"zsl-deploy: {said}\n{traceback.format_exc()}")
        return [said] * len(asked)

    def _asked(self, request: Any) -> Asked:
        """What a request wants; UsageError E-TRITON-REQUEST, E-TOPK, E-FILTER."""
        given = self._parameters(request)
        encoded = self.utils.get_input_tensor_by_name(request, ENCODED)
        prepared = self.utils.get_input_tensor_by_name(request, self.port.name)
        if (encoded is None) == (prepared is None):
            either = self.port.name if self.classifier.pixels is None else f"{ENCODED} or {self.port.name}"
            raise UsageError(
                "E-TRITON-REQUEST",
                f"the request has {'no input' if encoded is None else 'both inputs'}; give {either}",
            )
        if encoded is not None:
            sources: list[bytes | Square] = [bytes(one) for one in encoded.as_numpy().reshape(-1)]
        else:
            rows = prepared.as_numpy()
            _check_read(rows)
            if rows.dtype != self.port.dtype or rows.shape[1:] != self.port.shape:
                raise UsageError(
                    "E-TRITON-REQUEST",
                    f"{self.port.name} is {rows.dtype} {rows.shape}; expected {self.port.dtype} "
                    f"{('N', *self.port.shape)}".replace("'", ""),
                )
            sources = [Square(row) for row in rows]
        return Asked(sources, given.get("topk", self.settings.topk), given.get("classes", "all"))

    def _parameters(self, request: Any) -> dict[str, Any]:
        """The request's parameters that are ours; what is neither ours nor Triton's is an error."""
        given = json.loads(request.parameters() or "{}")
        given = {name: value for name, value in given.items() if not name.startswith("triton_")}
        wrong = sorted(given.keys() - set(REQUEST_PARAMETERS))
        if wrong:
            raise UsageError(
                "E-TRITON-REQUEST",
                f"unknown parameters: {listed(wrong)}{nearest(wrong[0], REQUEST_PARAMETERS)}; there are topk (a whole "
                f"number) and classes ({', '.join(CLASS_FILTERS)})",
            )
        return given

    def _response(self, request: Any, told: Told | ZslError | str) -> Any:
        utils = self.utils
        if not isinstance(told, Told):
            return utils.InferenceResponse(output_tensors=[], error=utils.TritonError(str(told)))
        count = len(told.errors)
        given = {
            "names": _texts(told.names),
            "ids": told.ids,
            "seen": told.seen,
            "probabilities": told.probabilities,
            "distances": told.distances,
            "distance": None if told.distance is None else told.distance.reshape(count, 1),
            "far": None if told.far is None else told.far.reshape(count, 1),
            "error": _texts(np.array(told.errors, np.object_).reshape(count, 1)),
            "generation": np.full((count, 1), told.generation, np.int64),
        }
        wanted = set(request.requested_output_names()) & self.outputs
        tensors = [utils.Tensor(name, value) for name, value in given.items() if name in wanted and value is not None]
        return utils.InferenceResponse(output_tensors=tensors)

    def finalize(self) -> None:
        """Let go of the bundle."""
        self.classifier.close()


def _check_read(array: Any) -> None:
    """BackendError E-TRITON-NUMPY where Triton and this NumPy misread each other's arrays.

    Python backends up to Triton 24.10 were built for NumPy 1 (triton-inference-server/python_backend#384). With NumPy 2
    they take every number of a tensor for its first one, and a tensor of texts ends the process.
    """
    if array.size > 1 and not any(array.strides):
        raise BackendError(
            "E-TRITON-NUMPY",
            f"this Triton's Python backend was built for NumPy 1 and misreads arrays of NumPy {np.__version__}; take "
            "a Triton after 24.10, or put NumPy 1.26 into the environment of its Python backend",
        )


def _texts(texts: Any) -> Any:
    """Texts as Triton takes them: UTF-8."""
    shape = texts.shape
    made = np.empty(texts.size, np.object_)
    made[:] = [text.encode("utf-8", "replace") for text in texts.reshape(-1)]
    return made.reshape(shape)


def _threads(settings: Settings, config: Mapping[str, Any]) -> int:
    if settings.threads is not None:
        return settings.threads
    instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", [])) or 1
    return max(1, usable_cpus() // instances)


def check_inputs(inputs: Sequence[Mapping[str, Any]], port: InputPort) -> None:
    """ArtefactError E-TRITON-INPUT unless config.pbtxt has the input of the bundle's graph.

    The bundle may have been exported again since the model repository was made.
    """
    declared = {str(one["name"]): (str(one["data_type"]), tuple(int(size) for size in one["dims"])) for one in inputs}
    wanted = (DTYPES[port.dtype], port.shape)
    if declared.get(port.name) != wanted:
        raise ArtefactError(
            "E-TRITON-INPUT",
            f"config.pbtxt has the inputs {shown(declared, 200)}, the bundle's graph takes {port.name} {wanted}; make "
            "the model repository again: zsl-export BUNDLE --format triton --out REPO",
        )
