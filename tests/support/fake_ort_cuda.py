"""A stand-in for onnxruntime-gpu on a machine without a card: strict about how it is called, right in what it computes.

Numbers come from the real onnxruntime on the CPU. Every call is recorded, its arguments are bound to the signature of
the real class, and what the documentation forbids raises: a session with another provider or without the option that
forbids falling back, an input that was not bound or lies on another card, an output that was not bound.
"""

from __future__ import annotations

import inspect
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnxruntime
from onnxruntime.capi import onnxruntime_inference_collection as real

from zsl_runtime.machine.cards import Card, Driver

if TYPE_CHECKING:
    import numpy as np

PROVIDER = "CUDAExecutionProvider"
CARDS = (Card(0, "NVIDIA Test 1", "8.9", 24 * 2**30), Card(1, "NVIDIA Test 2", "9.0", 80 * 2**30))
DRIVER = Driver("580.65.06", "13.0", CARDS, "")
REFUSAL = (
    "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default CPU EP, but "
    "fallback to CPU EP has been explicitly disabled by the user."
)
KNOWN_OPTIONS = {  # of the CUDA provider, as its documentation lists them
    "device_id",
    "gpu_mem_limit",
    "arena_extend_strategy",
    "cudnn_conv_algo_search",
    "cudnn_conv_use_max_workspace",
    "cudnn_conv1d_pad_to_nc1d",
    "do_copy_in_default_stream",
    "enable_cuda_graph",
    "enable_skip_layer_norm_strict_mode",
    "tunable_op_enable",
    "tunable_op_tuning_enable",
    "use_tf32",
    "user_compute_stream",
    "prefer_nhwc",
    "use_ep_level_unified_stream",
}


@dataclass
class FakeOrt:
    """The module. Attributes say how it behaves; `calls` what was asked of it, in order.

    Attributes:
        cards: how many it can open.
        libraries: whether CUDA's libraries are found; without them the session ends up on the CPU, or is refused.
        fails: raised by the next run.
        calls: (name, arguments).
        copied: bytes that were copied to a card, one entry a copy.

    """

    cards: int = 2
    libraries: bool = True
    honest: bool = True
    fails: Exception | None = None
    calls: list[tuple] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.__version__ = onnxruntime.__version__
        self.SessionOptions = onnxruntime.SessionOptions
        self.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
        self.ExecutionMode = onnxruntime.ExecutionMode
        self.OrtValue = types.SimpleNamespace(ortvalue_from_numpy=self.ortvalue_from_numpy)

    def get_available_providers(self):
        return [PROVIDER, "CPUExecutionProvider"]

    def set_default_logger_severity(self, severity):
        assert callable(onnxruntime.set_default_logger_severity)  # of the bindings, which tell no signature
        self.calls.append(("set_default_logger_severity", severity))

    def preload_dlls(self, *args, **kwargs):
        inspect.signature(onnxruntime.preload_dlls).bind(*args, **kwargs)
        self.calls.append(("preload_dlls", kwargs))
        if not self.libraries:
            print("Failed to load /somewhere/libcudnn.so.9: no such file")

    def InferenceSession(self, *args, **kwargs):  # noqa: N802
        bound = inspect.signature(real.InferenceSession.__init__).bind(None, *args, **kwargs).arguments
        path, options, providers = bound["path_or_bytes"], bound["sess_options"], bound["providers"]
        self.calls.append(("InferenceSession", providers))
        if providers == ["CPUExecutionProvider"]:
            return onnxruntime.InferenceSession(path, options, providers=providers)
        assert bound["kwargs"] == {"enable_fallback": 0}, "the Python class would try the CPU by itself"
        ((name, given),) = providers
        assert name == PROVIDER
        assert set(given) <= KNOWN_OPTIONS
        assert all(isinstance(value, str) for value in given.values())
        assert ("preload_dlls", {"directory": ""}) in self.calls, "CUDA's libraries were not looked for"
        assert ("set_default_logger_severity", 4) in self.calls, "cuDNN's attempts would be printed to stderr"
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        card = int(given["device_id"])
        if card >= self.cards:
            raise RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : invalid device ordinal {card}")
        if not self.libraries and self.honest:
            raise RuntimeError(REFUSAL)
        return FakeSession(self, path, card)

    def ortvalue_from_numpy(self, *args, **kwargs):
        bound = inspect.signature(onnxruntime.OrtValue.ortvalue_from_numpy).bind(*args, **kwargs).arguments
        array = bound.get("numpy_obj", args[0])
        assert array.flags.c_contiguous
        assert bound["device_type"] == "cuda"
        self.copied.append(array.nbytes)
        return FakeValue(array.copy(), bound["device_id"])


@dataclass
class FakeValue:
    """An array on a card."""

    array: np.ndarray
    card: int


class FakeSession:
    """A graph on a card."""

    def __init__(self, ort, path, card):
        self.ort, self.card = ort, card
        self.cpu = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def get_inputs(self):
        return self.cpu.get_inputs()

    def get_outputs(self):
        return self.cpu.get_outputs()

    def get_providers(self):
        return [PROVIDER, "CPUExecutionProvider"] if self.ort.libraries else ["CPUExecutionProvider"]

    def io_binding(self):
        return FakeBinding(self)

    def run_with_iobinding(self, *args, **kwargs):
        binding = inspect.signature(real.Session.run_with_iobinding).bind(None, *args, **kwargs).arguments["iobinding"]
        assert binding.session is self
        assert set(binding.inputs) == {port.name for port in self.get_inputs()}, "every input must be bound"
        assert binding.outputs, "no output was bound"
        if self.ort.fails is not None:
            error, self.ort.fails = self.ort.fails, None
            raise error
        feeds = {name: value.array for name, value in binding.inputs.items()}
        binding.found = self.cpu.run(list(binding.outputs), feeds)
        self.ort.calls.append(("run_with_iobinding", tuple(binding.outputs)))


class FakeBinding:
    """Which values a run reads, and what it gives."""

    def __init__(self, session):
        self.session, self.inputs, self.outputs, self.found = session, {}, [], None

    def bind_ortvalue_input(self, *args, **kwargs):
        bound = inspect.signature(real.IOBinding.bind_ortvalue_input).bind(None, *args, **kwargs).arguments
        assert isinstance(bound["ortvalue"], FakeValue)
        assert bound["ortvalue"].card == self.session.card
        self.inputs[bound["name"]] = bound["ortvalue"]

    def bind_output(self, *args, **kwargs):
        bound = inspect.signature(real.IOBinding.bind_output).bind(None, *args, **kwargs).arguments
        assert bound["device_type"] == "cuda"
        assert bound["device_id"] == self.session.card
        assert bound["name"] in {port.name for port in self.session.get_outputs()}
        self.outputs.append(bound["name"])

    def copy_outputs_to_cpu(self):
        assert self.found is not None, "nothing was run"
        return self.found
