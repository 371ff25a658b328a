"""What zsl-doctor says of cards, of the libraries that run on them, and of the engines in a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsl_runtime.cli.finding import BROKEN, NOTE, OK, Finding
from zsl_runtime.errors import ArtefactError
from zsl_runtime.extras import install, reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.machine.cards import Card
    from zsl_runtime.trt.facts import Stored
    from zsl_runtime.trt.library import Installed


def cards() -> Iterator[Finding]:
    """The driver, and each card that it shows."""
    from zsl_runtime.machine.cards import driver

    found = driver()
    if found.problem:
        yield Finding(NOTE, f"no NVIDIA card: {found.problem}")
        return
    yield Finding(OK, f"NVIDIA driver {found.version or 'of unknown version'}, which runs CUDA up to {found.cuda}")
    for card in found.cards:
        yield Finding(OK, f"cuda:{card.index} is {card}")


def libraries() -> Iterator[Finding]:
    """TensorRT, TensorRT-RTX and the bindings of CUDA: version, or why it cannot be used and what installs it."""
    from zsl_runtime.trt.library import installed

    for one in installed():
        if one.version is not None:
            yield Finding(OK, f"{one.name} {one.version} builds and runs engines")
        else:
            yield Finding(NOTE, f"no {one.name}: {one.reason}; {one.install}")
    from zsl_runtime.trt.cuda import EXTRA

    version, problem = bindings()
    if not problem:
        yield Finding(OK, f"cuda.bindings {version}")
    else:
        yield Finding(NOTE, f"no cuda.bindings: {problem}; {install(EXTRA)}")


def bindings() -> tuple[str, str]:
    """Version of cuda.bindings, and why they cannot be imported; one of the two is ''."""
    from importlib import import_module

    try:
        import_module("cuda.bindings.runtime")
        return str(import_module("cuda.bindings").__version__), ""
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0] == "cuda"
        return "", "not installed here" if missing else f"they need {error.name}, which is not installed here"
    except Exception as error:  # whatever the compiled modules raise where a library of theirs is missing
        return "", f"they are installed here but cannot be imported ({reason(error)})"


def on_card(name: str) -> Finding:
    """A backend that runs on a card: usable on card 0, or what is missing."""
    from zsl_runtime.backends.devices import find_card, trouble
    from zsl_runtime.backends.table import BACKENDS

    card, problem = find_card(0)
    error = trouble(name, None, "fp32", card)
    if error is not None:
        return Finding(NOTE, f"no backend {name}: {error.message}")
    if card is None:
        return Finding(NOTE, f"no backend {name}: its library is there, but {problem}")
    return Finding(OK, f"backend {name} on cuda:0 ({card.name}): {', '.join(BACKENDS[name].precisions)}")


def engines(bundle: Bundle) -> Iterator[Finding]:
    """Each engine of a bundle: what it is for, and whether it can be used here."""
    from zsl_runtime.graphs.parts import PARTS
    from zsl_runtime.machine.cards import driver
    from zsl_runtime.trt.library import installed
    from zsl_runtime.trt.store import engines_of

    held = [stored for part in PARTS for stored in engines_of(bundle, part)]
    if not held:
        yield Finding(OK, "no engines in it; for a card: zsl-export BUNDLE --format engine")
        return
    there, shown = installed(), driver().cards
    graphs = {entry["sha256"] for entry in bundle.manifest["files"].values()}
    for stored in held:
        text = f"engine {stored.path.stem}: {stored.facts}, {stored.bytes / 1e6:.1f} MB"
        try:
            reasons = misfits(stored, there, shown, graphs)
        except ArtefactError as error:
            yield Finding(BROKEN, f"{text}: {error}")
            continue
        if reasons:
            yield Finding(NOTE, f"{text}; not for this machine: {'; '.join(reasons)}")
            continue
        passed = ", ".join(stored.verified_on)
        yield Finding(
            OK, f"{text}; fits this machine{f', passed the probe on {passed}' if passed else ', not yet run anywhere'}"
        )


def damaged_engines(bundle: Bundle) -> Iterator[Finding]:
    """On a machine without a card: how many engines a bundle has, if it has any, and which are not as they were built.

    No library of theirs is imported.
    """
    from zsl_runtime.graphs.parts import PARTS
    from zsl_runtime.trt.store import engines_of, read_plan

    held = [stored for part in PARTS for stored in engines_of(bundle, part)]
    whole = 0
    for stored in held:
        try:
            read_plan(stored)
            whole += 1
        except ArtefactError as error:
            yield Finding(BROKEN, f"engine {stored.path.stem}: {error}")
    if held:
        told = f"{whole} of {len(held)} TensorRT engines are as they were built"
        yield Finding(OK, f"{told}; there is no card to run them")


def misfits(stored: Stored, there: Sequence[Installed], shown: Sequence[Card], graphs: set[str]) -> list[str]:
    """Why an engine cannot be used on this machine; nothing when it can. Only its description and bytes are looked at.

    Args:
        stored: the engine.
        there: the libraries.
        shown: the cards.
        graphs: sha256 of the bundle's files.

    Raises:
        ArtefactError: E-ENGINE-HASH, E-ENGINE-MISSING: its bytes are not those that were built.

    """
    from zsl_runtime.trt.facts import this_platform
    from zsl_runtime.trt.store import read_plan
    from zsl_runtime.trt.trust import check_trust

    facts = stored.facts
    read_plan(stored)
    reasons = []
    if facts.graph_sha256 not in graphs:
        reasons.append("it is of another export of the model")
    if facts.platform != this_platform():
        reasons.append(f"this is {this_platform()}")
    version = next((one.version for one in there if one.name == facts.flavour), None)
    if version != facts.version:
        reasons.append(f"{facts.flavour} here is {version}" if version else f"{facts.flavour} is not usable here")
    here = sorted({card.compute_capability for card in shown})
    if not set(here) & set(facts.compute_capabilities):
        reasons.append(f"the card here has compute capability {', '.join(here)}" if here else "there is no card")
    try:
        check_trust(stored, trusted=False)
    except ArtefactError as error:
        reasons.append(error.message)
    return reasons
