"""The store of engines: `engines/<key>.engine`, the plan as the library wrote it, and `engines/<key>.json` beside it.

The key stands for everything that decides whether a plan can be used (`Facts`), so another library version, card,
precision or profile is another file, and adding classes changes none. The plan has no byte of ours: trtexec and Triton
load it as it is. Where the bundle cannot be written, engines go to the user's cache folder.

Hashes show damage; they are no trust. A plan is executable code, so one is loaded only if this user built it here: its
sha256 is listed in a file of the user's own cache folder. Signed bundles are not implemented; the other way is to say
so, with `--trust-engine`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import platform as machine
import re
import shlex
import stat
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from zsl_runtime.backends import PRECISIONS, SMALL_PARTS
from zsl_runtime.cache import cache_folder
from zsl_runtime.errors import ArtefactError, SystemProblem, UsageError, from_os_error
from zsl_runtime.storage import TEMPORARY, exclusive, replacing, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from zsl_runtime.bundle import Bundle

FORMAT = 1  # of the sidecar
ENGINES = "engines"
PLAN, SIDECAR = ".engine", ".json"
PARTS = ("model", *SMALL_PARTS)
# Precision of the model graph -> key of Bundle.precisions. The graphs of the other parts are float32 alone.
TENSORRT_FILES = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-trt"}
CHOICES = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}  # flavour -> what stands for it after `--trt`
TRUSTED, VERIFIED = "trusted-engines", "verified-engines"  # in the user's cache folder, a line a plan
READ_ATTEMPTS = 5  # a plan and its sidecar are two files: a reader may come between the two renames of a rebuild
_KEY = re.compile(r"[0-9a-f]{16}")
_CAPABILITY = re.compile(r"[1-9]\d?\.\d")


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


class Port(NamedTuple):
    """One input or output of a graph.

    Attributes:
        name: of the tensor.
        dtype: uint8 or float32.
        shape: sizes, and a letter of the glossary where it is dynamic: N, C, M.

    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Ports(NamedTuple):
    """All inputs and outputs of a graph, in its order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


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


# --- facts and names ------------------------------------------------------------------------------------------------


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
        held = held_precisions(bundle)
        raise UsageError(
            "E-PRECISION",
            f"{bundle.path} holds {', '.join(held) or 'no precision for TensorRT'} and no {precision}; take one of "
            f"those, or export it: zsl-export RUN --precision {','.join([*held, precision])} --out "
            f"{shlex.quote(str(bundle.path))} --force",
        )
    return name


def held_precisions(bundle: Bundle) -> list[str]:
    """The precisions in which the model can be built for TensorRT, the bundle's default first."""
    held = [precision for precision, name in TENSORRT_FILES.items() if name in bundle.precisions]
    return sorted(held, key=lambda precision: precision != bundle.default_precision)


def ports_of(bundle: Bundle, part: str) -> Ports:
    """What a graph of this bundle takes and gives (ARCHITECTURE.md, Graphs), from the manifest alone."""
    dims = bundle.manifest["dims"]
    f, d, a, z = (dims[letter] for letter in "FDAZ")
    given = bundle.manifest["input"]
    semantic = Port("semantic", "float32", ("M", a))
    match part:
        case "model":
            head = (
                Port("head_weight", "float32", ("C", d)),
                Port("head_bias", "float32", ("C",)),
                Port("class_bias", "float32", ("C",)),
            )
            inputs = (Port(given["name"], given["dtype"], ("N", *given["shape"][1:])), *head)
            return Ports(inputs, (Port("scores", "float32", ("N", "C")), Port("features", "float32", ("N", f))))
        case "synthesizer":
            noise = Port("noise", "float32", ("M", z))
            return Ports((semantic, noise), (Port("features", "float32", ("M", f)),))
        case "rows":
            return Ports((semantic,), (Port("weight", "float32", ("M", d)), Port("bias", "float32", ("M",))))
        case "means":
            return Ports((semantic,), (Port("means", "float32", ("M", d)),))
        case _:
            return Ports((Port("features", "float32", ("M", f)),), (Port("lifted", "float32", ("M", d)),))


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


# --- writing --------------------------------------------------------------------------------------------------------


def store(
    bundle_path: Path,
    facts: Facts,
    plan: bytes,
    ports: Ports,
    build_seconds: float = 0.0,
    *,
    trusted: bool = True,
) -> Path:
    """Write a plan and its sidecar, and note that this user built it here. A plan of the same facts is replaced.

    Args:
        bundle_path: folder of the bundle; where it cannot be written, the user's cache folder takes the engine.
        facts: of the plan.
        plan: as the library gave it.
        ports: of its graph.
        build_seconds: what it took.
        trusted: False leaves it to the user to trust the plan.

    Returns:
        Path of the plan.

    Raises:
        SystemProblem: neither place can be written.

    """
    digest = hashlib.sha256(plan).hexdigest()
    sidecar = {
        "format": FORMAT,
        "facts": asdict(facts),
        "plan": {"sha256": digest, "bytes": len(plan)},
        "built_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "build_seconds": round(build_seconds, 3),
        "builder": f"{facts.flavour} {facts.version}",
        "inputs": [_port_json(port) for port in ports.inputs],
        "outputs": [_port_json(port) for port in ports.outputs],
        "verified": {"probe": False, "on": None},
    }
    name = key(facts)
    if trusted:  # first: a plan that is there and not trusted would be refused by its own builder
        _note(TRUSTED, digest)
    places = [bundle_path / ENGINES, cache_folder() / ENGINES]
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with exclusive(bundle_path) if place == places[0] else contextlib.nullcontext():
                _clean(place)
                write_whole(place / f"{name}{PLAN}", plan)
                write_whole(place / f"{name}{SIDECAR}", _json_bytes(sidecar))
        except (OSError, SystemProblem) as problem:
            error = problem.__cause__ if isinstance(problem, SystemProblem) else problem
            if place != places[-1] and isinstance(error, OSError) and _refused(error):
                continue
            if isinstance(problem, OSError):
                raise from_os_error(problem, "keep the engine") from problem
            raise
        return place / f"{name}{PLAN}"
    raise AssertionError("unreachable")  # the last place returns or raises


def mark_verified(stored: Stored, gpu: str) -> None:
    """Note that a plan gave the probe's answers on the card named `gpu`.

    In the sidecar or, where that cannot be written, in the user's cache folder; where nothing can be written, the next
    load checks again.
    """
    with contextlib.suppress(OSError):
        _note(VERIFIED, f"{stored.sha256} {gpu}")
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        said = json.loads(stored.sidecar.read_bytes())
        if said["plan"]["sha256"] == stored.sha256:
            said["verified"] = {"probe": True, "on": gpu}
            write_whole(stored.sidecar, _json_bytes(said))


def _refused(error: OSError) -> bool:
    """Whether a place is closed to us for good, so that another one is worth a try; a full disk is not that."""
    import errno

    return error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}


def _clean(folder: Path) -> None:
    """Remove what killed writers of engines left; called by the only writer. Other files here are not ours."""
    for path in folder.glob(f"{TEMPORARY}*"):
        name = path.name.removeprefix(TEMPORARY)
        if _KEY.fullmatch(name[:16]) and name[16:].startswith((PLAN, SIDECAR)):
            path.unlink(missing_ok=True)


def _port_json(port: Port) -> dict[str, Any]:
    return {**port._asdict(), "shape": list(port.shape)}


def _json_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


# --- finding --------------------------------------------------------------------------------------------------------


def find(
    bundle: Bundle,
    *,
    flavour: str,
    version: str,
    compute_capability: str,
    precision: str,
    part: str = "model",
    gpu: str | None = None,
    classes: int = 0,
) -> Stored:
    """The plan of this bundle that can be used here; of several the newest, those that this user built before others.

    Args:
        bundle: whose graph it must have been built from.
        flavour: of the library that is to load it.
        version: of that library.
        compute_capability: of the card.
        precision: of the graph.
        part: of the bundle.
        gpu: name of the card; a plan that was built or verified on that very one is preferred.
        classes: how many the plan must take.

    Raises:
        UsageError: what `graph_file` raises.
        ArtefactError: E-ENGINE-MISSING (there is none), E-ENGINE-MISMATCH (there are some, for something else), and
            E-ENGINE-HASH (it is damaged); each with the command that builds it.

    """
    graph = bundle.manifest["files"][graph_file(bundle, part, precision)]["sha256"]
    command = build_command(bundle.path, precision, flavour=flavour, compute_capabilities=(compute_capability,))
    held, damaged = _held(bundle, part)
    same = [one for one in held if one.facts.precision == precision]
    wanted = (graph, flavour, version, this_platform(), False)
    usable = [
        one
        for one in same
        if (one.facts.graph_sha256, one.facts.flavour, one.facts.version, one.facts.platform, one.facts.host_code)
        == wanted
        and compute_capability in one.facts.compute_capabilities
        and one.facts.max_classes >= classes
    ]
    if usable:
        own = _noted(TRUSTED)
        found = max(
            usable,
            key=lambda one: (
                one.sha256 in own,
                gpu in {one.facts.gpu, *one.verified_on},
                one.built_at,
                one.path.name,
            ),
        )
        size = found.path.stat().st_size
        if size != found.bytes:
            raise _changed(found, f"{size} bytes", command)
        return found
    if damaged:
        raise ArtefactError("E-ENGINE-HASH", f"{damaged[0]} is damaged, and no other engine fits; build it: {command}")
    if not same:
        others = sorted({one.facts.precision for one in held})
        raise ArtefactError(
            "E-ENGINE-MISSING",
            f"{bundle.path} has no engine of its {part} in {precision}"
            f"{f' (only in {chr(44).join(others)})' if others else ''}; build it: {command}",
        )
    built = "; ".join(str(one.facts) for one in same[:3])
    stale = "" if any(one.facts.graph_sha256 == graph for one in same) else ", from another export of the model"
    asked = f" and {classes} classes (it takes {max(one.facts.max_classes for one in same)})" if classes else ""
    raise ArtefactError(
        "E-ENGINE-MISMATCH",
        f"the engine was built for {built}{stale}; here is {flavour} {version}, compute capability "
        f"{compute_capability}{f' ({gpu})' if gpu else ''}, {this_platform()}{asked}; build one that fits: {command}",
    )


def engines_of(bundle: Bundle, part: str = "model") -> list[Stored]:
    """All plans of one part of a bundle that are there with a readable sidecar, of any facts; newest first."""
    return sorted(_held(bundle, part)[0], key=lambda one: one.built_at, reverse=True)


def read_sidecar(path: Path) -> Stored:
    """The plan that a sidecar describes.

    Raises:
        ArtefactError: E-ENGINE-SIDECAR, it is not one or of a newer version.
        SystemProblem: it cannot be read.

    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, "read the engine's description") from error
    try:
        return _stored_from(json.loads(data), path)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise ArtefactError(
            "E-ENGINE-SIDECAR",
            f"{path} does not describe an engine ({type(error).__name__}: {error}); remove it and build the engine "
            "again: zsl-export BUNDLE --format engine",
        ) from None


def _held(bundle: Bundle, part: str) -> tuple[list[Stored], list[Path]]:
    """Plans of `part` of this bundle, whose files are there, and sidecars that cannot be read."""
    graphs = {entry["sha256"] for entry in bundle.manifest["files"].values()}
    held, damaged = [], []
    for place in (bundle.path / ENGINES, cache_folder() / ENGINES):
        own = place.parent == bundle.path
        for path in sorted(place.glob(f"*{SIDECAR}")):
            if not _KEY.fullmatch(path.stem):
                continue  # of something else, such as what `auto` remembers
            try:
                stored = read_sidecar(path)
            except ArtefactError:
                damaged += [path] if own else []
                continue
            if stored.facts.part == part and stored.path.is_file() and (own or stored.facts.graph_sha256 in graphs):
                held.append(stored)
    return held, damaged


def _stored_from(said: dict[str, Any], path: Path) -> Stored:
    """What a sidecar's JSON data says; ValueError and the like for anything else."""
    if said["format"] != FORMAT:
        raise ValueError(f"format {said['format']!r}, expected {FORMAT}")
    facts = _facts_from(said["facts"])
    if key(facts) != path.stem:
        raise ValueError("its facts are not those of its name")
    plan, verified = said["plan"], said["verified"]
    if type(plan["bytes"]) is not int or not re.fullmatch(r"[0-9a-f]{64}", plan["sha256"]):
        raise ValueError("its plan has no sha256 or size")
    on = {verified["on"]} if verified["probe"] is True and isinstance(verified["on"], str) else set()
    return Stored(
        path=path.with_suffix(PLAN),
        facts=facts,
        sha256=plan["sha256"],
        bytes=plan["bytes"],
        ports=Ports(_ports_from(said["inputs"]), _ports_from(said["outputs"])),
        built_at=str(said["built_at"]),
        build_seconds=float(said["build_seconds"]),
        builder=str(said["builder"]),
        verified_on=tuple(sorted({*on, *_verified_on(plan["sha256"])})),
    )


def _facts_from(said: dict[str, Any]) -> Facts:
    """Facts of JSON data; ValueError and the like for anything else."""
    facts = Facts(
        **{
            **said,
            "compute_capabilities": tuple(said["compute_capabilities"]),
            "profiles": tuple(Profile(**profile) for profile in said["profiles"]),
        }
    )
    strings = [facts.graph_sha256, facts.part, facts.flavour, facts.version, facts.precision, facts.platform]
    numbers = [facts.max_classes, *(value for profile in facts.profiles for value in asdict(profile).values())]
    good = (
        all(type(one) is str for one in [*strings, *facts.compute_capabilities])
        and all(type(one) is int for one in numbers)
        and (facts.gpu is None or type(facts.gpu) is str)
        and type(facts.host_code) is bool
        and facts.part in PARTS
        and facts.precision in TENSORRT_FILES
        and bool(facts.profiles)
        and bool(facts.compute_capabilities)
        and {one.name for one in fields(Facts)} == set(said)
    )
    if not good:
        raise ValueError("its facts are not those of an engine")
    return facts


def _ports_from(said: list[dict[str, Any]]) -> tuple[Port, ...]:
    ports = tuple(Port(str(one["name"]), str(one["dtype"]), tuple(one["shape"])) for one in said)
    if not all(type(size) in {int, str} for port in ports for size in port.shape):
        raise ValueError("a shape is not of sizes and letters")
    return ports


# --- loading --------------------------------------------------------------------------------------------------------


def read_plan(stored: Stored) -> bytes:
    """The plan's bytes, after they were compared with the sidecar; give just these to the library.

    Raises:
        ArtefactError: E-ENGINE-HASH when they were changed, E-ENGINE-MISSING when the file is gone.
        SystemProblem: it cannot be read.

    """
    for attempt in range(READ_ATTEMPTS):
        try:
            data = stored.path.read_bytes()
        except FileNotFoundError:
            raise ArtefactError(
                "E-ENGINE-MISSING", f"{stored.path} is gone; build it again: zsl-export BUNDLE --format engine"
            ) from None
        except OSError as error:
            raise from_os_error(error, "read the engine") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest == stored.sha256:
            return data
        with contextlib.suppress(ArtefactError):  # a rebuild may have replaced both files since
            again = read_sidecar(stored.sidecar)
            if again.sha256 != stored.sha256 or attempt == 0:
                stored = again
                continue
        break
    raise _changed(stored, digest[:12], "zsl-export BUNDLE --format engine")


def _changed(stored: Stored, found: str, command: str) -> ArtefactError:
    return ArtefactError(
        "E-ENGINE-HASH",
        f"{stored.path} is not the plan that was built ({found}, expected {stored.sha256[:12]} and {stored.bytes} "
        f"bytes); build it again: {command}",
    )


def check_trust(stored: Stored, trusted: bool) -> None:
    """Refuse a plan that somebody else may have made: loading it is running their code.

    Args:
        stored: the plan.
        trusted: the user said `--trust-engine`.

    Raises:
        ArtefactError: E-ENGINE-TRUST when neither this user built it here nor `trusted`.

    """
    if trusted or stored.sha256 in _noted(TRUSTED):
        return
    record = cache_folder() / TRUSTED
    if record.exists() and not _own(record):
        raise ArtefactError(
            "E-ENGINE-TRUST",
            f"{stored.path} is not trusted, because others can write the list of the engines you built, {record}, or "
            f"its folder; close them (chmod go-w {shlex.quote(str(record.parent))} {shlex.quote(str(record))}) and "
            "build the engine again with zsl-export BUNDLE --format engine, or add --trust-engine",
        )
    raise ArtefactError(
        "E-ENGINE-TRUST",
        f"{stored.path} was not built by you on this machine ({stored.builder}, {stored.built_at}), and loading an "
        "engine runs its code; build your own with zsl-export BUNDLE --format engine, or, if you know where it comes "
        "from, add --trust-engine",
    )


def _note(name: str, line: str) -> None:
    """Add a line to a file of the user's cache folder that only the user can write."""
    path = cache_folder() / name
    if line in _noted(name):
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = path.read_bytes() if path.is_file() and _own(path) else b""
    with replacing(path) as partial:
        partial.touch(mode=0o600)
        partial.write_bytes(content + line.encode() + b"\n")


def _noted(name: str) -> set[str]:
    """Lines of such a file; none where somebody else could have written them."""
    path = cache_folder() / name
    try:
        if not _own(path):
            return set()
        return set(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return set()


def _own(path: Path) -> bool:
    """Whether a file and its folder are this user's, and nobody else may write them (where the system has owners)."""
    if not hasattr(os, "getuid"):
        return True
    file, folder = path.stat(), path.parent.stat()
    closed = not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    own_folder = closed and folder.st_uid == os.getuid()
    sticky = bool(folder.st_mode & stat.S_ISVTX) and folder.st_uid in {0, os.getuid()}  # others cannot replace a file
    return file.st_uid == os.getuid() and not file.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and (own_folder or sticky)


def _verified_on(sha256: str) -> Iterator[str]:
    """Cards on which this user saw the plan pass the probe."""
    for line in _noted(VERIFIED):
        digest, _, gpu = line.partition(" ")
        if digest == sha256:
            yield gpu
