"""`zsl-export --format engine`: the engines of a bundle, one a precision. No torch is needed here."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zsl_runtime.errors import UsageError
from zsl_runtime.trt.build import GIB, Shape, build_for_bundle, card_at_hand, choose_capabilities
from zsl_runtime.trt.facts import graph_file
from zsl_runtime.trt.library import find_library
from zsl_runtime.trt.progress import BuildProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.trt.facts import Stored
    from zsl_runtime.trt.library import Library

    Tell = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What the command line says of engines; checked as far as no bundle is needed.

    Attributes:
        library: that builds.
        shape: batches and classes.
        compute_capabilities: as asked for; empty for those at hand.
        workspace_bytes: None for the library's choice.

    """

    library: Library
    shape: Shape
    compute_capabilities: tuple[str, ...]
    workspace_bytes: int | None


def plan_engines(
    *,
    trt: str = "auto",
    min_batch: int = 1,
    opt_batch: int | None = None,
    max_batch: int | None = None,
    workspace: float | None = None,
    compute_capability: str = "",
) -> Wanted:
    """Find the library and check the options, before anything is exported.

    Args:
        trt: auto, tensorrt or rtx.
        min_batch: of the throughput profile.
        opt_batch: where that one is fastest; None for max_batch.
        max_batch: None for 64, or for min_batch where that is larger.
        workspace: GiB that a layer may take as scratch memory on the card.
        compute_capability: comma list such as ``8.6,8.9``; '' for the card at hand.

    Raises:
        UsageError: E-TRT-NAME, E-ENGINE-PROFILE, E-ENGINE-WORKSPACE, E-ENGINE-CAPABILITY.
        BackendError: E-BACKEND-MISSING, E-DEVICE, E-ENGINE-CAPABILITY.

    """
    largest = max(Shape.max_batch, min_batch, opt_batch or 1) if max_batch is None else max_batch
    shape = Shape(min_batch=min_batch, opt_batch=opt_batch, max_batch=largest)
    shape.profiles()
    if workspace is not None and not 0 < workspace < 2**20:
        raise UsageError("E-ENGINE-WORKSPACE", f"a workspace of {workspace:g} GiB; give a number above 0")
    asked = tuple(one.strip() for one in compute_capability.split(",")) if compute_capability else ()
    library = find_library(trt)
    choose_capabilities(library, asked, card_at_hand())
    return Wanted(library, shape, asked, None if workspace is None else int(workspace * GIB))


def make_engines(bundle: Bundle, precisions: Sequence[str], wanted: Wanted, tell: Tell) -> list[Stored]:
    """Build the engine of the model in each precision and keep it with the bundle.

    Args:
        bundle: open.
        precisions: that it holds; all are looked for before the first is built.
        wanted: how.
        tell: gets a line for the user about each.

    Raises:
        UsageError: E-PRECISION when the bundle does not hold one.
        ZslError: what `build_for_bundle` raises. Engines that were built before stay.

    """
    for precision in precisions:
        graph_file(bundle, "model", precision)
    made = []
    for precision in precisions:
        progress = BuildProgress(sys.stderr, f"engine in {precision}")
        tell(f"building the {precision} engine with {wanted.library}")
        stored = build_for_bundle(
            bundle,
            wanted.library,
            precision,
            shape=wanted.shape,
            compute_capabilities=wanted.compute_capabilities,
            workspace_bytes=wanted.workspace_bytes,
            progress=progress,
        )
        tell(f"wrote {stored.path} ({stored.bytes / 1e6:.1f} MB) in {stored.build_seconds:.1f} s: {stored.facts}")
        made.append(stored)
    if any(one.facts.gpu is None for one in made):
        tell("The engine has not run yet: it must give the probe's answers when it is first loaded on a card.")
    return made


def next_commands(bundle: Bundle, inputs: str) -> str:
    """Commands to copy; `inputs` is what is labelled."""
    place = shlex.quote(str(bundle.path))
    return (
        "Next, where the card is:\n"
        f"  zsl-infer {inputs} --engine {place} --backend tensorrt\n"
        f"  zsl-classes add --engine {place} --attributes NEW_CLASSES.csv    (the engine stays as it is)"
    )
