"""The NVIDIA cards of this machine, asked of the driver itself (libcuda): no package is needed, and no card is touched.

No context is made, so that nothing is allocated on a card. On a machine without a driver the answer costs nothing.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARY = "libcuda.so.1"
VERSION_FILE = Path("/proc/driver/nvidia/version")
DEVICES = Path("/sys/bus/pci/devices")
NVIDIA = "0x10de"  # vendor on the PCI bus
DISPLAY = "0x03"  # beginning of the class of cards that draw or only compute
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
NAME_BYTES = 256
INSTALL_DRIVER = "install NVIDIA's driver for this machine (https://www.nvidia.com/drivers; 580 or newer)"


@dataclass(frozen=True)
class Card:
    """One card.

    Attributes:
        index: N of `cuda:N`, as the driver counts; `CUDA_VISIBLE_DEVICES` hides and reorders cards.
        name: such as `NVIDIA L4`.
        compute_capability: such as `8.9`.
        memory_bytes: all of it, used or not.

    """

    index: int
    name: str
    compute_capability: str
    memory_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.name}, compute capability {self.compute_capability}, {self.memory_bytes / 2**30:.1f} GiB of memory"
        )


@dataclass(frozen=True)
class Driver:
    """What the driver says.

    Attributes:
        version: such as `580.65.06`; '' where it cannot be read or there is none.
        cuda: the newest CUDA it runs, such as `13.0`; '' without a driver.
        cards: those it shows.
        problem: why there is no card, with what to do; '' when there is one.
        damaged: its library is there and cannot be loaded.

    """

    version: str
    cuda: str
    cards: tuple[Card, ...]
    problem: str
    damaged: bool = False

    @property
    def there(self) -> bool:
        """Whether there is a driver at all, whatever cards it shows."""
        return bool(self.version or self.cuda or self.cards or self.damaged)

    def card(self, index: int) -> Card | None:
        """Card `index`, or None."""
        return next((card for card in self.cards if card.index == index), None)


class _DriverError(Exception):
    """A call of the driver failed; the message says which and why."""

    def __init__(self, call: str, code: int, said: str) -> None:
        super().__init__(call, code, said)
        self.code = code

    def __str__(self) -> str:
        call, code, said = self.args
        return f"{call} says {said or 'error'} ({code})"


@functools.cache
def driver() -> Driver:
    """What the driver of this machine says, asked once a process."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        said = " ".join(str(error).split())
        if "cannot open shared object file" in said and said.startswith(f"{LIBRARY}:"):
            return Driver("", "", (), f"there is no NVIDIA driver ({LIBRARY} is not found): {INSTALL_DRIVER}")
        problem = f"NVIDIA's driver cannot be loaded, though {LIBRARY} is there ({said}): {INSTALL_DRIVER}"
        return Driver(driver_version(), "", (), problem, damaged=True)
    return ask(library, driver_version())


def has_nvidia(devices: Path = DEVICES) -> bool:
    """Whether there is an NVIDIA card in this machine or a driver of one; a card without a driver is seen on Linux."""
    if driver().there:
        return True
    try:
        return any(_is_nvidia_card(device) for device in devices.iterdir())
    except OSError:
        return False


def _is_nvidia_card(device: Path) -> bool:
    try:
        vendor, kind = ((device / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
    except (OSError, ValueError):
        return False
    return vendor == NVIDIA and kind.startswith(DISPLAY)


def driver_version(path: Path = VERSION_FILE) -> str:
    """The kernel module's version, such as `580.65.06`; '' where the file is not there or says something else."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text, re.MULTILINE)
    return found.group(1) if found else ""


def ask(library: Any, version: str = "") -> Driver:
    """Ask a loaded libcuda for its cards.

    Args:
        library: with the functions of CUDA's driver API, as `ctypes.CDLL` gives them.
        version: of the kernel module, to be passed on.

    """
    cuda = ""
    try:
        number = ctypes.c_int(0)
        _check(library, "cuDriverGetVersion", ctypes.byref(number))  # the only call that may come before cuInit
        cuda = f"{number.value // 1000}.{number.value % 1000 // 10}"
        _check(library, "cuInit", ctypes.c_uint(0))
        _check(library, "cuDeviceGetCount", ctypes.byref(number))
        cards = tuple(_card(library, index) for index in range(number.value))
    except (_DriverError, AttributeError) as error:  # the latter: a library without these functions
        if getattr(error, "code", None) != NO_DEVICE:
            return Driver(version, cuda, (), f"NVIDIA's driver does not start: {error}; {INSTALL_DRIVER}")
        cards = ()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = f", CUDA_VISIBLE_DEVICES is {hidden!r}" if hidden is not None else ""
    problem = "" if cards else f"the driver shows no card{why}: see to it that nvidia-smi lists one"
    return Driver(version, cuda, cards, problem)


def _card(library: Any, index: int) -> Card:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(NAME_BYTES), ctypes.c_size_t()
    _check(library, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
    _check(library, "cuDeviceGetName", name, ctypes.c_int(NAME_BYTES), device)
    _check(library, "cuDeviceGetAttribute", ctypes.byref(major), ctypes.c_int(MAJOR), device)
    _check(library, "cuDeviceGetAttribute", ctypes.byref(minor), ctypes.c_int(MINOR), device)
    _check(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    return Card(index, name.value.decode(errors="replace"), f"{major.value}.{minor.value}", memory.value)


def _check(library: Any, call: str, *arguments: Any) -> None:
    """Call a function of the driver; _DriverError unless it succeeds."""
    code = int(getattr(library, call)(*arguments))
    if code == 0:
        return
    text = ctypes.c_char_p()
    said = ""
    if library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text)) == 0 and text.value:
        said = text.value.decode(errors="replace")
    raise _DriverError(call, code, said)
