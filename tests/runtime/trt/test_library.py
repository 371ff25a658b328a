"""Which TensorRT library is found, what is said of one that cannot be used, and its log."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

import pytest

from support.engines import needs_rtx
from support.fake_builder import FakeTensorRT, ILogger, Severity
from zsl_runtime.errors import BackendError, UsageError
from zsl_runtime.trt.library import KEPT_LINES, KNOWN, Library, Messages, find_library, installed


def module(name: str, version: str) -> ModuleType:
    made = ModuleType(name)
    made.__version__ = version
    made.Runtime = object
    return made


@pytest.fixture
def nothing(monkeypatch):
    """A machine with neither library."""
    for known in KNOWN:
        for name in known.modules:
            monkeypatch.setitem(sys.modules, name, None)
    return monkeypatch


@pytest.mark.parametrize("version", ["10.13.3.9", "11.4.0.106"])
def test_auto_prefers_the_full_library(nothing, version):
    nothing.setitem(sys.modules, "tensorrt", module("tensorrt", version))
    nothing.setitem(sys.modules, "tensorrt_rtx", module("tensorrt_rtx", "1.7.1.116"))
    found = find_library()
    assert (found.flavour, found.version, str(found)) == ("tensorrt", version, f"tensorrt {version}")
    assert (found.choice, find_library("rtx").choice) == ("tensorrt", "rtx")
    assert find_library("rtx").flavour == "tensorrt-rtx"
    assert [state.version for state in installed()] == [version, "1.7.1.116"]


@pytest.mark.parametrize("name", ["tensorrt_rtx", "tensorrt_rtx_bindings"])
def test_auto_takes_what_there_is_by_either_of_its_names(nothing, name):
    nothing.setitem(sys.modules, name, module(name, "1.7.1.116"))
    assert find_library().flavour == "tensorrt-rtx"
    with pytest.raises(BackendError, match=r'pip install "zsl-deploy\[tensorrt\]"'):
        find_library("tensorrt")


def test_without_any_both_install_lines_are_given(nothing):
    with pytest.raises(BackendError) as caught:
        find_library()
    assert (caught.value.code, caught.value.exit_code) == ("E-BACKEND-MISSING", 4)
    assert all(known.install in str(caught.value) for known in KNOWN)
    assert [(state.version, state.reason) for state in installed()] == [(None, "not installed here")] * 2


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "12.0.0", "", "eleven"])
def test_a_version_whose_api_is_another(nothing, version):
    nothing.setitem(sys.modules, "tensorrt", module("tensorrt", version))
    with pytest.raises(BackendError, match=r"is version .*, expected 10\.x or 11\.x"):
        find_library("tensorrt")


def test_a_folder_of_that_name(nothing):
    nothing.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(BackendError, match="tensorrt is not the library"):
        find_library("tensorrt")


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        (
            "raise ImportError('libnvinfer.so.11: not\\n found')",
            r"libnvinfer\.so\.11: not found",
        ),
        ("raise OSError('libcudart.so.13')", r"cannot be imported \(libcudart\.so\.13\)"),
        ("import no_such_half", "tensorrt needs no_such_half, which is not installed"),
    ],
)
def test_a_broken_install_says_why(nothing, tmp_path, line, pattern):
    (tmp_path / "tensorrt.py").write_text(line)
    nothing.delitem(sys.modules, "tensorrt")
    nothing.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match=pattern) as caught:
        find_library("auto")
    assert "\n" not in str(caught.value)
    assert "tensorrt-rtx: not installed" in str(caught.value)


def test_an_unknown_choice():
    with pytest.raises(UsageError, match="choose auto, tensorrt, rtx") as caught:
        find_library("onnx")
    assert caught.value.code == "E-TRT-NAME"


def fake() -> Library:
    return Library("tensorrt", "11.4.0.106", FakeTensorRT("11.4.0.106", ((), ())))


def test_the_last_errors_are_kept_and_the_rest_is_dropped():
    messages = Messages(fake())
    assert isinstance(messages.logger, ILogger)
    assert messages.text() == "it gave no reason"
    messages.logger.log(Severity.WARNING, "slow")
    messages.logger.log(Severity.VERBOSE, "chatter")
    assert (list(messages.errors), list(messages.warnings)) == ([], ["slow"])
    for i in range(KEPT_LINES + 2):
        messages.logger.log(Severity.INTERNAL_ERROR if i % 2 else Severity.ERROR, f"line\n {i}")  # noqa: G004  # not logging
    assert messages.text() == "; ".join(f"line {i}" for i in range(2, KEPT_LINES + 2))
    messages.clear()
    assert messages.text() == "it gave no reason"


def test_two_logs_do_not_mix_and_take_threads():
    first, second = Messages(fake()), Messages(fake())
    threads = [threading.Thread(target=first.logger.log, args=(Severity.ERROR, "same")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(first.errors) == ["same"] * KEPT_LINES
    assert not second.errors


@needs_rtx
def test_the_real_one_names_compute_capabilities():
    found = find_library("rtx")
    assert found.names_capabilities
    assert found.version.startswith("1.")
    messages = Messages(found)
    found.module.Builder(messages.logger).create_network(1 << 31)  # a flag that there is not
    assert isinstance(messages.logger, found.module.ILogger)
