"""What decides whether an engine can be used, and the names of its files."""

from __future__ import annotations

import hashlib
import json
import platform as machine
import shlex
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import UsageError
from zsl_runtime.graphs.parts import PARTS
from zsl_runtime.graphs.precisions import PRECISIONS, TENSORRT_FILES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.graphs.ports import Port, Ports

PLAN, SIDECAR = ".engine", ".json"
CHOICES = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}  # flavour -> what stands for it after `--trt`


def this_platform() -> str:
    """Operating system and processor: plans of one are not for another."""
    return f"{machine.system()}-{machine.machine()}".lower()


@dataclass(frozen=True)
class Profile:
    """The batch sizes that one optimisation profile serves: 1 <= min <= opt <= max, and it is fastest at opt."""

    min_batch: int
    opt_batch: int
    max_batch: int

    def __str__(self) -> str:
        return f"{self.min_batch}..{self.max_batch} (best {self.opt_batch})"


@dataclass(frozen=True)
class Facts:
    """What decides whether a plan can be used.

    Attributes:
        graph_sha256: of the ONNX file it was built from.
        part: model, means, synthesizer, rows or lift.
        flavour: tensorrt or tensorrt-rtx.
        version: of that library, whole; no other version loads the plan.
        compute_capabilities: such as 8.9; with the full library exactly one.
        gpu: name of the card that it was built on; None without one.
        precision: fp32, fp16 or int8.
        profiles: at least one; a context chooses by the batch.
        max_classes: the largest class count (of other parts: 0).
        host_code: never; a plan with code for the CPU in it is not built and not loaded.
        platform: operating system and processor.

    """

    graph_sha256: str
    part: str
    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    precision: str
    profiles: tuple[Profile, ...]
    max_classes: int
    host_code: bool = False
    platform: str = field(default_factory=this_platform)

    def __str__(self) -> str:
        made_on = f" ({self.gpu})" if self.gpu else ""
        served = " and ".join(str(profile) for profile in self.profiles)
        return (
            f"{self.part} in {self.precision}, {self.flavour} {self.version}, compute capability "
            f"{', '.join(self.compute_capabilities)}{made_on}, batches {served}, {self.platform}"
        )


@dataclass(frozen=True)
class Stored:
    """One plan of the store, as its sidecar describes it. Nothing of the plan itself has been read.

    Attributes:
        path: of the plan.
        facts: what it was built for.
        sha256: of the plan.
        bytes: its size.
        ports: its inputs and outputs.
        built_at: when, in UTC.
        build_seconds: how long it took.
        builder: library and version.
        verified_on: names of the cards on which it has passed the probe; empty for a plan that never ran.

    """

    path: Path
    facts: Facts
    sha256: str
    bytes: int
    ports: Ports
    built_at: str
    build_seconds: float
    builder: str
    verified_on: tuple[str, ...] = ()

    @property
    def sidecar(self) -> Path:
        """The JSON file beside the plan."""
        return self.path.with_suffix(SIDECAR)


def key(facts: Facts) -> str:
    """16 hexadecimal digits that stand for these facts; the file name of their plan."""
    text = json.dumps(asdict(facts), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def graph_file(bundle: Bundle, part: str, precision: str) -> str:
    """Name of the ONNX file in the bundle that `part` is built from in `precision`.

    Raises:
        UsageError: E-ENGINE-PART for a part that the model does not have, E-PRECISION-NAME, E-PRECISION when the bundle
            does not hold it.

    """
    if part not in PARTS or (part != "model" and bundle.graph(part) is None):
        held = [name for name in PARTS if bundle.graph(name) is not None]
        raise UsageError("E-ENGINE-PART", f"{bundle.path} has no graph {part!r}; it has {', '.join(held)}")
    if precision not in TENSORRT_FILES:
        extra = ", which is a precision of CPUs" if precision in PRECISIONS else ""
        raise UsageError(
            "E-PRECISION-NAME",
            f"there is no engine in {precision!r}{extra}; choose {', '.join(TENSORRT_FILES)}",
        )
    if part != "model":
        path = bundle.graph(part) if precision == "fp32" else None
        if path is None:
            raise UsageError("E-PRECISION", f"the graph {part} is in fp32 alone, not in {precision}; take fp32")
        return path.name
    name = bundle.precisions.get(TENSORRT_FILES[precision])
    if name is None:
        held = engine_precisions(bundle)
        raise UsageError(
            "E-PRECISION",
            f"{bundle.path} holds {', '.join(held) or 'no precision for TensorRT'} and no {precision}; take one of "
            f"those, or export it: zsl-export RUN --precision {','.join([*held, precision])} --out "
            f"{shlex.quote(str(bundle.path))} --force",
        )
    return name


def engine_precisions(bundle: Bundle) -> list[str]:
    """The precisions in which the model can be built for TensorRT, the bundle's default first."""
    held = [precision for precision, name in TENSORRT_FILES.items() if name in bundle.precisions]
    return sorted(held, key=lambda precision: precision != bundle.default_precision)


def build_command(
    bundle: Path, precision: str, *, flavour: str | None = None, compute_capabilities: Sequence[str] = ()
) -> str:
    """The command that builds an engine, to be copied."""
    words = ["zsl-export", str(bundle), "--format", "engine", "--precision", precision]
    if flavour is not None:
        words += ["--trt", CHOICES.get(flavour, flavour)]
    if flavour == "tensorrt-rtx" and compute_capabilities:
        words += ["--compute-capability", ",".join(compute_capabilities)]
    return shlex.join(words)


def port_json(port: Port) -> dict[str, Any]:
    """A port as the sidecar has it."""
    return {**port._asdict(), "shape": list(port.shape)}


def json_bytes(content: dict[str, Any]) -> bytes:
    """A sidecar's bytes."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
