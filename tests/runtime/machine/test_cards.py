"""The driver is asked by its own functions, in their order; on a machine without one the answer says what to do."""

from __future__ import annotations

import ctypes

import pytest

from zsl_runtime.machine import cards
from zsl_runtime.machine.cards import Card, Driver, ask, driver, driver_version, has_nvidia

GIB = 2**30


class FakeDriver:
    """libcuda with some cards: (name, major, minor, bytes). Strict about order and about what each call is given."""

    def __init__(self, given, *, version=13000, fails=None):
        self.given, self.version, self.fails = given, version, fails or {}
        self.calls = []

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)
        call = getattr(type(self), f"_{name}", None)
        if call is None:
            raise AttributeError(name)

        def run(*arguments):
            self.calls.append(name)
            if name not in {"cuDriverGetVersion", "cuGetErrorString", "cuInit"}:
                assert "cuInit" in self.calls, "only the version may be asked for before cuInit"
            if name in self.fails:
                return self.fails[name]
            return call(self, *arguments)

        return run

    def _cuDriverGetVersion(self, out):  # noqa: N802
        out._obj.value = self.version
        return 0

    def _cuInit(self, flags):  # noqa: N802
        assert flags.value == 0
        return 0

    def _cuDeviceGetCount(self, out):  # noqa: N802
        out._obj.value = len(self.given)
        return 0

    def _cuDeviceGet(self, out, index):  # noqa: N802
        out._obj.value = 100 + index.value  # a handle is not an index
        return 0

    def _cuDeviceGetName(self, out, length, device):  # noqa: N802
        assert length.value == len(out)
        out.value = self.given[device.value - 100][0].encode()
        return 0

    def _cuDeviceGetAttribute(self, out, attribute, device):  # noqa: N802
        out._obj.value = self.given[device.value - 100][{75: 1, 76: 2}[attribute.value]]
        return 0

    def _cuDeviceTotalMem_v2(self, out, device):  # noqa: N802
        assert isinstance(out._obj, ctypes.c_size_t)
        out._obj.value = self.given[device.value - 100][3]
        return 0

    def _cuGetErrorString(self, code, out):  # noqa: N802
        out._obj.value = f"error number {code.value}".encode()
        return 0


TWO = [("NVIDIA L4", 8, 9, 24 * GIB), ("NVIDIA H200", 9, 0, 141 * GIB)]


def test_every_card_is_described():
    found = ask(FakeDriver(TWO), "580.65.06")
    assert found == Driver(
        "580.65.06", "13.0", (Card(0, "NVIDIA L4", "8.9", 24 * GIB), Card(1, "NVIDIA H200", "9.0", 141 * GIB)), ""
    )
    assert found.card(1) is found.cards[1]
    assert found.card(2) is None
    assert str(found.cards[0]) == "NVIDIA L4, compute capability 8.9, 24.0 GiB of memory"


def test_a_driver_without_a_card_says_so(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for fake in (FakeDriver([]), FakeDriver([], fails={"cuInit": cards.NO_DEVICE})):
        found = ask(fake)
        assert (found.cards, found.cuda) == ((), "13.0")
        assert "shows no card: see to it that nvidia-smi lists one" in found.problem
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in ask(FakeDriver([])).problem


@pytest.mark.parametrize(
    "call", ["cuDriverGetVersion", "cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceTotalMem_v2"]
)
def test_a_driver_that_fails_is_told_with_its_words(call):
    found = ask(FakeDriver(TWO, fails={call: 35}))
    assert found.cards == ()
    assert f"{call} says error number 35 (35)" in found.problem
    assert "install NVIDIA's driver" in found.problem


def test_a_library_that_is_no_driver_is_told():
    assert "does not start" in ask(object()).problem


def test_the_version_is_that_of_the_kernel_module(tmp_path):
    path = tmp_path / "version"
    path.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (builder@host)  Sun\n"
        "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0)\n"
    )
    assert driver_version(path) == "580.65.06"
    path.write_text("something else\n")
    assert driver_version(path) == ""
    assert driver_version(tmp_path / "none") == ""


def test_without_a_driver_the_answer_is_one_line(monkeypatch):
    monkeypatch.setattr(cards, "LIBRARY", "libcuda-that-is-nowhere.so.1")
    driver.cache_clear()
    try:
        found = driver()
        assert (found.cards, found.version, found.cuda) == ((), "", "")
        assert "there is no NVIDIA driver (libcuda-that-is-nowhere.so.1 is not found): install" in found.problem
    finally:
        driver.cache_clear()


def test_a_driver_library_that_is_damaged_is_not_one_that_is_absent(monkeypatch, tmp_path):
    (tmp_path / "libcuda.so.1").write_text("not a library\n")
    monkeypatch.setattr(cards, "LIBRARY", str(tmp_path / "libcuda.so.1"))
    driver.cache_clear()
    try:
        found = driver()
        assert found.damaged
        assert found.there
        assert found.cards == ()
        assert "NVIDIA's driver cannot be loaded, though" in found.problem
        assert has_nvidia(tmp_path / "none")  # so that zsl-doctor speaks of it
    finally:
        driver.cache_clear()


@pytest.mark.gpu
def test_the_driver_of_this_machine():
    found = driver()
    if not found.cards:
        pytest.skip(found.problem)
    assert found.version
    for card in found.cards:
        assert card.name
        assert card.memory_bytes > GIB
        assert float(card.compute_capability) >= 5


NO_DRIVER = Driver("", "", (), "there is no NVIDIA driver: install it")


@pytest.mark.parametrize(
    ("vendor", "kind", "there"),
    [
        ("0x10de", "0x030000", True),  # draws
        ("0x10de", "0x030200", True),  # only computes
        ("0x10de", "0x040300", False),  # the sound of a card
        ("0x8086", "0x030000", False),
    ],
)
def test_a_card_without_a_driver_is_seen_on_the_bus(tmp_path, monkeypatch, vendor, kind, there):
    monkeypatch.setattr(cards, "driver", lambda: NO_DRIVER)
    assert not has_nvidia(tmp_path / "none")
    assert not has_nvidia(tmp_path)
    (tmp_path / "0000:00:01.0").mkdir()  # without the files
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "vendor").write_text(f"{vendor}\n")
    (tmp_path / "0000:01:00.0" / "class").write_text(f"{kind}\n")
    assert has_nvidia(tmp_path) == there


def test_a_driver_is_enough_without_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "driver", lambda: Driver("", "13.0", (), "the driver shows no card"))
    assert has_nvidia(tmp_path)
