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
import re
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from zsl_runtime.bundle.reading import ENGINES, check_places
from zsl_runtime.errors import ArtefactError, SystemProblem, from_os_error
from zsl_runtime.graphs.parts import PARTS
from zsl_runtime.graphs.ports import Port, Ports
from zsl_runtime.graphs.precisions import TENSORRT_FILES
from zsl_runtime.machine.cache import cache_folder
from zsl_runtime.machine.notes import note_once
from zsl_runtime.machine.storage import TEMPORARY, exclusive, write_whole
from zsl_runtime.machine.untrusted import GIB, MIB, UnfitError, check_regular, parse_object, read_file
from zsl_runtime.trt.facts import (
    PLAN,
    SIDECAR,
    Facts,
    Profile,
    Stored,
    build_command,
    graph_file,
    json_bytes,
    key,
    port_json,
    this_platform,
)
from zsl_runtime.trt.trust import TRUSTED, VERIFIED, add_note, check_trust, is_own, noted_lines, own_line, verified_on

if TYPE_CHECKING:
    from pathlib import Path

    from zsl_runtime.bundle.bundle import Bundle

FORMAT = 1  # of the sidecar
MOST_OF_SIDECAR, MOST_OF_PLAN = MIB, 16 * GIB  # bytes
AGAIN = "remove it and build the engine again: zsl-export BUNDLE --format engine"
GRAPH = b"\x08"  # how an ONNX file begins; plans begin with ftrt and vtrt
READ_ATTEMPTS = 5  # a plan and its sidecar are two files: a reader may come between the two renames of a rebuild
_KEY = re.compile(r"[0-9a-f]{16}")


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
        "inputs": [port_json(port) for port in ports.inputs],
        "outputs": [port_json(port) for port in ports.outputs],
        "verified": {"probe": False, "on": None},
    }
    name = key(facts)
    if trusted:  # first: a plan that is there and not trusted would be refused by its own builder
        _note_built(own_line(digest, name))
    places = _places(bundle_path)
    for place in places:
        try:
            if place == places[0]:
                check_places(bundle_path)
            place.mkdir(parents=True, exist_ok=True)
            with exclusive(bundle_path) if place == places[0] else contextlib.nullcontext():
                _clean(place)
                write_whole(place / f"{name}{PLAN}", plan)
                write_whole(place / f"{name}{SIDECAR}", json_bytes(sidecar))
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
        add_note(VERIFIED, f"{stored.sha256} {gpu}")
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        said = parse_object(_content(stored.sidecar, MOST_OF_SIDECAR))
        if said["plan"]["sha256"] == stored.sha256:
            said["verified"] = {"probe": True, "on": gpu}
            write_whole(stored.sidecar, json_bytes(said))


def _places(bundle_path: Path) -> list[Path]:
    """Where engines of a bundle may lie: in it, and in the user's cache folder, where there is one."""
    kept = cache_folder()
    return [bundle_path / ENGINES, *([] if kept is None else [kept / ENGINES])]


def _note_built(line: str) -> None:
    """List a plan among those that this user built; where no list can be kept, its use takes `--trust-engine`."""
    problem = "this user has no home folder"
    try:
        if cache_folder() is not None:
            add_note(TRUSTED, line)
            return
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
    note_once(
        "trust",
        f"the engine cannot be listed among those you built ({problem}), so that using it takes --trust-engine; set "
        "ZSL_CACHE to a folder of yours and build it again to change this",
    )


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
        own = noted_lines(TRUSTED)
        found = max(
            usable,
            key=lambda one: (
                is_own(one, own),
                gpu in {one.facts.gpu, *one.verified_on},
                one.built_at,
                _written(one.sidecar),  # of two in one second
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


def _written(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 where it is gone."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


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
        data = _content(path, MOST_OF_SIDECAR)
    except UnfitError as error:
        raise ArtefactError("E-ENGINE-SIDECAR", f"{path} {error}; {AGAIN}") from None
    except OSError as error:
        raise from_os_error(error, "read the engine's description") from error
    try:
        return _stored_from(parse_object(data), path)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise ArtefactError(
            "E-ENGINE-SIDECAR",
            f"{path} does not describe an engine ({type(error).__name__}: {error}); {AGAIN}",
        ) from None


def _held(bundle: Bundle, part: str) -> tuple[list[Stored], list[Path]]:
    """Plans of `part` of this bundle, whose files are there, and sidecars that cannot be read."""
    graphs = {entry["sha256"] for entry in bundle.manifest["files"].values()}
    held, damaged = [], []
    for place in _places(bundle.path):
        own = place.parent == bundle.path
        for path in sorted(place.glob(f"*{SIDECAR}")):
            if not _KEY.fullmatch(path.stem):
                continue  # of something else, such as what `auto` remembers
            try:
                stored = read_sidecar(path)
            except ArtefactError:
                damaged += [path] if own else []
                continue
            if stored.facts.part == part and _is_plain(stored.path) and (own or stored.facts.graph_sha256 in graphs):
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
        verified_on=tuple(sorted({*on, *verified_on(plan["sha256"])})),
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


def read_plan(stored: Stored, *, trusted: bool | None = None) -> bytes:
    """The plan's bytes, after they were compared with the sidecar; give just these to the library.

    Args:
        stored: a plan that is trusted, where it is to be loaded. A rebuild may have replaced it since.
        trusted: as of `check_trust`, which is asked about one that did; None where nothing is loaded.

    Raises:
        ArtefactError: E-ENGINE-HASH when they were changed or are an ONNX graph, E-ENGINE-MISSING when the file is
            gone, E-ENGINE-TRUST when it was replaced by one that somebody else may have made.
        SystemProblem: it cannot be read.

    """
    asked = stored
    for attempt in range(READ_ATTEMPTS):
        try:
            data = _content(stored.path, MOST_OF_PLAN)
        except UnfitError as error:
            raise ArtefactError("E-ENGINE-HASH", f"{stored.path} {error}; {AGAIN}") from None
        except FileNotFoundError:
            raise ArtefactError(
                "E-ENGINE-MISSING", f"{stored.path} is gone; build it again: zsl-export BUNDLE --format engine"
            ) from None
        except OSError as error:
            raise from_os_error(error, "read the engine") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest == stored.sha256:
            if data.startswith(GRAPH):
                raise ArtefactError("E-ENGINE-HASH", f"{stored.path} is an ONNX graph and no plan; {AGAIN}")
            if stored is not asked and trusted is not None:
                check_trust(stored, trusted)
            return data
        with contextlib.suppress(ArtefactError):  # a rebuild may have replaced both files since
            again = read_sidecar(stored.sidecar)
            if again.sha256 != stored.sha256 or attempt == 0:
                stored = again
                continue
        break
    raise _changed(stored, digest[:12], "zsl-export BUNDLE --format engine")


def _content(path: Path, most: int) -> bytes:
    """A file of the store, which is no link and lies in no folder of the bundle that is one."""
    return read_file(path, most, within=_top(path))


def _top(path: Path) -> Path | None:
    """The folder below which a file of the store has no links above it: the bundle. A user may link their own cache."""
    kept = cache_folder()
    return None if kept is not None and path.parent == kept / ENGINES else path.parent.parent


def _is_plain(path: Path) -> bool:
    """Whether there is a plan, and neither it nor its folder is a link."""
    try:
        check_regular(path, within=_top(path))
    except (OSError, UnfitError):
        return False
    return True


def _changed(stored: Stored, found: str, command: str) -> ArtefactError:
    return ArtefactError(
        "E-ENGINE-HASH",
        f"{stored.path} is not the plan that was built ({found}, expected {stored.sha256[:12]} and {stored.bytes} "
        f"bytes); build it again: {command}",
    )
