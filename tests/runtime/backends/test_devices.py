"""`--device`: a card that is named is used or is an error with what to do; `auto` passes over what cannot be used."""

from __future__ import annotations

import string
import sys

import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from support.drivers import pretend_driver
from support.fake_ort_cuda import CARDS, DRIVER, PROVIDER, FakeOrt
from support.usable import auto_chooses_among
from zsl_runtime.backends import auto, opening
from zsl_runtime.backends.devices import Device, parse_device
from zsl_runtime.backends.opening import candidates_for, open_backend
from zsl_runtime.backends.table import BACKENDS, fast
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.doctor import machine
from zsl_runtime.cli.infer import main as infer
from zsl_runtime.errors import BackendError, UsageError
from zsl_runtime.machine.cards import Driver

NO_DRIVER = Driver("", "", (), "there is no NVIDIA driver (libcuda.so.1 is not found): install it")


@pytest.fixture
def bundle(own_bundle) -> Bundle:
    """Of each test its own: what `auto` measured is kept in it."""
    return Bundle.open(own_bundle(precisions=("fp32", "fp16")))


@pytest.fixture
def table(monkeypatch) -> dict:
    """The table with the two backends of ONNX Runtime as users have them."""
    auto_chooses_among(monkeypatch, "ort", "ort-cuda")
    return BACKENDS


@pytest.fixture
def card(monkeypatch, tmp_path) -> FakeOrt:
    """A machine with two cards and onnxruntime-gpu."""
    fake = FakeOrt()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    pretend_driver(monkeypatch, DRIVER)
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    return fake


def test_devices_by_name():
    assert parse_device("auto") == Device("auto")
    assert parse_device("cpu") == Device("cpu")
    assert parse_device("cuda") == parse_device("cuda:0") == parse_device(" CUDA:0") == Device("cuda", 0)
    assert parse_device("cuda:12") == Device("cuda", 12)
    assert [str(parse_device(word)) for word in ("auto", "cpu", "cuda:3")] == ["auto", "cpu", "cuda:3"]


@given(st.text(alphabet=string.printable + "é٣", max_size=12))
def test_any_other_word_is_a_usage_error(word):
    try:
        device = parse_device(word)
    except UsageError as error:
        assert error.code == "E-DEVICE-NAME"  # noqa: PT017
        assert "cuda:N" in error.message  # noqa: PT017
    else:
        assert device.kind in {"auto", "cpu", "cuda"}
        assert word.strip().lower() in {str(device), "cuda", f"cuda:{word.strip()[5:]}"}


def test_a_named_card_without_a_driver_is_exit_4_with_the_lines_of_the_doctor(
    table, bundle, monkeypatch, capsys, tmp_path
):
    if PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    pretend_driver(monkeypatch, NO_DRIVER)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert infer([str(tmp_path), "--engine", str(bundle.path), "--device", "cuda:0"]) == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "E-DEVICE: cuda:0 cannot be used" in printed.err
    with pytest.raises(BackendError) as caught:
        open_backend("auto", bundle, device="cuda:0")
    assert (caught.value.code, caught.value.exit_code) == ("E-DEVICE", 4)
    said = "\n".join(finding.text for finding in machine())
    line = 'pip uninstall --yes onnxruntime && pip install "zsl-deploy[gpu]"'
    for part in (NO_DRIVER.problem, line):
        assert part in caught.value.message
        assert part in said
    assert "--device cpu" in caught.value.message


def test_a_card_that_is_not_there_and_a_precision_no_card_backend_runs(table, card, bundle):
    with pytest.raises(BackendError, match="cuda:7 cannot be used: the driver shows 2 cards"):
        open_backend("auto", bundle, device="cuda:7")
    with pytest.raises(BackendError, match="ort-cuda does not run int8") as caught:
        open_backend("auto", bundle, device="cuda:0", precision="int8")
    assert caught.value.exit_code == 4
    with pytest.raises(UsageError, match="E-PRECISION-NAME"):
        open_backend("auto", bundle, device="cuda:0", precision="fp64")


def test_a_named_card_is_used_and_nothing_else(table, card, bundle):
    backend = open_backend("auto", bundle, device="cuda:1", threads=1)
    assert (backend.name, backend.device) == ("ort-cuda", "cuda:1")
    assert candidates_for(bundle, "cuda:1", "fp16") == (["ort-cuda"], {})


def test_the_cpu_is_the_cpu(table, card, bundle):
    backend = open_backend("auto", bundle, device="cpu", threads=1)
    assert (backend.name, backend.device) == ("ort", "cpu")
    assert card.copied == []


def test_auto_measures_card_and_cpu_and_remembers_the_card(table, card, bundle, monkeypatch):
    names, _ = candidates_for(bundle, "auto", "fp32")
    assert names == ["ort-cuda", "ort"]
    backend = open_backend("auto", bundle, threads=1)
    assert backend.name in names
    found = auto.remembered(bundle, names, precision="fp32")
    assert found is not None
    assert set(found.seconds) == set(names)
    other = Driver(DRIVER.version, DRIVER.cuda, CARDS[1:], "")
    pretend_driver(monkeypatch, other)
    assert auto.remembered(bundle, names, precision="fp32") is None  # another card measures for itself


def test_auto_passes_over_a_card_that_cannot_be_used_and_knows_why(table, card, bundle, monkeypatch):
    pretend_driver(monkeypatch, NO_DRIVER)
    assert candidates_for(bundle, "auto", "fp32") == (["ort"], {"ort-cuda": NO_DRIVER.problem})
    assert open_backend("auto", bundle, threads=1).name == "ort"
    pretend_driver(monkeypatch, DRIVER)
    card.libraries = False  # the card is there, and its libraries are not
    assert open_backend("auto", bundle, threads=1).name == "ort"
    found = auto.remembered(bundle, ["ort-cuda", "ort"], precision="fp32")
    assert "zsl-deploy[gpu]" in found.left_out["ort-cuda"]


@pytest.mark.parametrize(
    ("name", "device", "other"), [("ort", "cuda:0", "ort-cuda"), ("ort-cuda", "cpu", "ort or openvino")]
)
def test_backend_and_device_that_do_not_go_together_are_a_usage_error(bundle, name, device, other):
    with pytest.raises(UsageError, match=rf"{name} does not run on {device}.*{other}") as caught:
        open_backend(name, bundle, device=device)
    assert (caught.value.code, caught.value.exit_code) == ("E-DEVICE-BACKEND", 2)


def test_classes_are_added_on_the_cpu_whatever_there_is(table, card, bundle):
    assert fast("fp32") == ["ort"]
    assert opening.open_small_graphs(bundle, threads=1).device == "cpu"
