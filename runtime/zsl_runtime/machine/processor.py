"""What the processor can do, as far as the system tells: which instructions it has for numbers of 8 and 16 bits."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import NamedTuple

CPUINFO = Path("/proc/cpuinfo")
# Instruction set -> the system's word for it. Where a processor of Intel or AMD has neither of the first two, products
# of 8-bit numbers are summed in 16 bits in pairs, and sums that do not fit are cut off (saturated).
INT8 = {"AVX512_VNNI": "avx512_vnni", "AVX_VNNI": "avx_vnni", "AMX": "amx_int8", "dot product": "asimddp"}
BF16 = {"AVX512_BF16": "avx512_bf16", "AMX": "amx_bf16", "bf16": "bf16"}


class Processor(NamedTuple):
    """The first processor of this machine.

    Attributes:
        name: such as `AMD EPYC 9R14`.
        flags: its instruction sets in the system's words; empty where they cannot be read.

    """

    name: str
    flags: frozenset[str]

    @property
    def int8(self) -> list[str]:
        """Names of its instructions for sums of products of 8-bit numbers."""
        return [name for name, flag in INT8.items() if flag in self.flags]

    @property
    def bf16(self) -> list[str]:
        """Names of its instructions for products of bf16 numbers."""
        return [name for name, flag in BF16.items() if flag in self.flags]


def processor(cpuinfo: Path = CPUINFO) -> Processor:
    """What `cpuinfo` says; without it, what Python knows."""
    said: dict[str, str] = {}
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), " ".join(value.split()))
    flags = (said.get("flags") or said.get("Features") or "").split()
    return Processor(said.get("model name") or platform.processor() or platform.machine(), frozenset(flags))
