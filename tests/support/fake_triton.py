"""What Triton gives its Python backend, as strict as the real one; and config.pbtxt as it hands that over.

`triton_python_backend_utils` exists inside the server alone. What this stands for is tried on the real server in
tests/serving.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

KINDS = {
    "TYPE_STRING": np.object_,
    "TYPE_UINT8": np.uint8,
    "TYPE_INT64": np.int64,
    "TYPE_FP32": np.float32,
    "TYPE_BOOL": np.bool_,
}
_TOKEN = re.compile(r'\s*(?:#[^\n]*\n\s*)*("(?:[^"\\]|\\.)*"|[A-Za-z0-9_.+-]+|[{}\[\]:,])')
_MANY = {"input", "output", "instance_group", "model_warmup", "parameters"}
_ALSO_MANY = "inputs"  # a map, of which one entry stands alone here


def read_config(text: str) -> dict[str, Any]:
    """A text protobuf as nested dicts; repeated messages are lists. AssertionError for what is none."""
    tokens, place = [], 0
    text = text.rstrip()
    while place < len(text):
        found = _TOKEN.match(text, place)
        assert found, f"no text protobuf at {text[place : place + 40]!r}"
        tokens.append(found[1])
        place = found.end()
    tokens.append("}")
    made, rest = _message(tokens, 0)
    assert rest == len(tokens)
    return made


def _message(tokens: list[str], at: int) -> tuple[dict[str, Any], int]:
    made: dict[str, Any] = {}
    while tokens[at] != "}":
        name = tokens[at]
        assert re.fullmatch("[a-z_]+", name), name
        at += 1 + (tokens[at + 1] == ":")
        value, at = _value(tokens, at)
        if name in _MANY or (name == _ALSO_MANY and name in made):
            if name in made and not isinstance(made[name], list):
                made[name] = [made[name]]
            made.setdefault(name, []).extend(value if isinstance(value, list) else [value])
        else:
            assert name not in made, name
            made[name] = value
    return made, at + 1


def _value(tokens: list[str], at: int) -> tuple[Any, int]:
    if tokens[at] == "{":
        return _message(tokens, at + 1)
    if tokens[at] == "[":
        values, at = [], at + 1
        while tokens[at] != "]":
            value, at = _value(tokens, at)
            values.append(value)
            at += tokens[at] == ","
        return values, at + 1
    text = tokens[at]
    if text.startswith('"'):
        data = re.sub(rb"\\(\d{3}|.)", lambda found: _unescaped(found[1]), text[1:-1].encode("ascii"))
        return data.decode(), at + 1
    return (int(text) if re.fullmatch("-?[0-9]+", text) else {"true": True, "false": False}.get(text, text)), at + 1


def _unescaped(letters: bytes) -> bytes:
    return bytes([int(letters, 8)]) if len(letters) == 3 else letters


def as_json(config: Mapping[str, Any]) -> str:
    """As `args["model_config"]`: a map for parameters, numbers of 64 bits as texts."""
    parameters = {one["key"]: one["value"] for one in config.get("parameters", [])}
    ports = {
        kind: [{**port, "dims": [str(size) for size in port["dims"]]} for port in config[kind]]
        for kind in ("input", "output")
    }
    return json.dumps({**config, **ports, "parameters": parameters})


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        assert isinstance(name, str)
        assert isinstance(array, np.ndarray)
        assert array.dtype in KINDS.values(), array.dtype
        assert array.flags.c_contiguous
        if array.dtype == np.object_:
            assert all(isinstance(one, (bytes, str)) for one in array.reshape(-1))
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array

    def is_cpu(self) -> bool:
        return True


class TritonError:
    def __init__(self, text: str) -> None:
        assert isinstance(text, str)
        self.text = text

    def message(self) -> str:
        return self.text


class TritonModelException(Exception):  # noqa: N818  # as it is called
    pass


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self._tensors, self._error = output_tensors, error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def error(self) -> TritonError | None:
        return self._error

    def has_error(self) -> bool:
        return self._error is not None


@dataclass
class Request:
    """What a client sent."""

    given: dict[str, np.ndarray]
    settings: dict[str, Any] = field(default_factory=dict)
    wanted: Sequence[str] | None = None

    def parameters(self) -> str:
        return json.dumps(self.settings) if self.settings else ""

    def requested_output_names(self) -> list[str]:
        return list(self.wanted if self.wanted is not None else ALL)


ALL = ("names", "ids", "seen", "probabilities", "distances", "distance", "far", "error", "generation")


def fake_utils(plan: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None) -> Any:
    """The module; `plan` is the model that calls inside the server reach. `said` has the log."""
    utils = ModuleType("triton_python_backend_utils")

    class Logger:
        @staticmethod
        def log_info(line: str) -> None:
            utils.said.append(line)

        log_error = log_info

    @dataclass
    class InferenceRequest:
        model_name: str
        requested_output_names: list[str]
        inputs: list[Tensor]
        preferred_memory: Any

        def exec(self) -> InferenceResponse:
            assert plan is not None
            if not utils.executing:
                raise TritonModelException("BLS is only supported during the 'execute' function.")
            utils.calls.append(self.model_name)
            try:
                made = plan({one.name(): one.as_numpy() for one in self.inputs})
            except ValueError as error:
                return InferenceResponse([], TritonError(str(error)))
            assert set(self.requested_output_names) == set(made)
            return InferenceResponse([Tensor(name, array) for name, array in made.items()])

    def by_name(tensors: Sequence[Tensor], name: str) -> Tensor | None:
        return next((one for one in tensors if one.name() == name), None)

    utils.said, utils.calls, utils.executing = [], [], False
    utils.Logger, utils.Tensor, utils.TritonError = Logger, Tensor, TritonError
    utils.TritonModelException, utils.InferenceResponse = TritonModelException, InferenceResponse
    utils.InferenceRequest, utils.PreferredMemory = InferenceRequest, lambda kind, number: (kind, number)
    utils.TRITONSERVER_MEMORY_CPU = 0
    utils.get_input_tensor_by_name = lambda request, name: (
        Tensor(name, request.given[name]) if name in request.given else None
    )
    utils.get_output_tensor_by_name = lambda response, name: by_name(response.output_tensors(), name)
    return utils


def load_model(repository: Path, name: str, utils: Any) -> Any:
    """model.py as the server imports it, `initialize` called; TritonModelException where it cannot."""
    folder = repository / name
    spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", utils)
        patch.delattr(utils, "TritonModelException")  # it comes after the import, as all that C++ gives
        spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    config = read_config((folder / "config.pbtxt").read_text(encoding="ascii"))
    model.initialize({"model_config": as_json(config), "model_repository": str(folder), "model_version": "1"})
    utils.executing = True
    return model


def told(response: InferenceResponse) -> dict[str, np.ndarray]:
    """Name -> array of a response without an error."""
    assert not response.has_error(), response.error().message()
    return {one.name(): one.as_numpy() for one in response.output_tensors()}


def encoded(*pictures: bytes) -> dict[str, np.ndarray]:
    """The input of picture files."""
    made = np.empty((len(pictures), 1), np.object_)
    made[:, 0] = pictures
    return {"encoded": made}
