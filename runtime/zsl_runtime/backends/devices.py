"""`--device`: what the words mean, and whether a card can be used; the same words for the error and for zsl-doctor."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from zsl_runtime.errors import BackendError, UsageError, ZslError

if TYPE_CHECKING:
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.machine.cards import Card

CPU, CUDA, AUTO = "cpu", "cuda", "auto"
DEVICES = "auto, cpu, or cuda:N for the card N"


class Device(NamedTuple):
    """Where a model is asked to run.

    Attributes:
        kind: `cpu`, `cuda` or `auto`.
        card: N of `cuda:N`; with `auto`, the card that would be used.

    """

    kind: str
    card: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.card}" if self.kind == CUDA else self.kind


def parse_device(text: str) -> Device:
    """What `text` names: `auto`, `cpu`, `cuda` (which is `cuda:0`) or `cuda:N`.

    Raises:
        UsageError: E-DEVICE-NAME for anything else.

    """
    word = text.strip().lower()
    if word in {AUTO, CPU}:
        return Device(word)
    found = re.fullmatch(r"cuda(?::(\d{1,4}))?", word, re.ASCII)
    if not found:
        raise UsageError("E-DEVICE-NAME", f"there is no device {text!r}; give {DEVICES}")
    return Device(CUDA, int(found.group(1) or 0))


def find_card(index: int) -> tuple[Card | None, str]:
    """The card `index`, or None and why there is none, with what to do."""
    from zsl_runtime.machine.cards import driver

    found = driver()
    card = found.card(index)
    if card is not None:
        return card, ""
    count = len(found.cards)
    few = f"the driver shows {count} card{'' if count == 1 else 's'}, counted from 0; give a number below {count}"
    return None, found.problem or few


def check_card(index: int) -> Card:
    """The card `index`; BackendError E-DEVICE, with all that is missing and what to do, when there is none."""
    from zsl_runtime.backends.table import BACKENDS

    card, problem = find_card(index)
    if card is None:
        on_cards = (name for name, kind in BACKENDS.items() if kind.device == CUDA)
        errors = ((name, trouble(name, None, "", None)) for name in on_cards)
        raise no_backend(Device(CUDA, index), problem, {name: error.message for name, error in errors if error})
    return card


def trouble(name: str, bundle: Bundle | None, precision: str, card: Card | None) -> ZslError | None:
    """Why the backend `name` cannot run on a card, as the error it would raise; None when nothing stands against it.

    Looks at what is installed and at what the bundle holds. Nothing is loaded onto the card.

    Args:
        name: a key of BACKENDS whose device is cuda.
        bundle: whose model is to be run; None to look at the library alone.
        precision: of the model.
        card: where; None to look at the library alone.

    """
    from zsl_runtime.backends.table import BACKENDS, check_precision

    try:
        if bundle is not None:
            check_precision(name, precision)
        import_module(BACKENDS[name].module).check(bundle, precision, card)
    except ZslError as error:
        return error
    return None


def no_backend(device: Device, problem: str, reasons: dict[str, str]) -> BackendError:
    """E-DEVICE: a card was asked for and cannot be used.

    Args:
        device: what was asked for.
        problem: with the card itself; '' when it is there.
        reasons: what stands against each backend that could run on it, each with what to do.

    """
    said = [problem] if problem else []
    said += [f"{name}: {why}" for name, why in reasons.items() if why != problem]
    return BackendError("E-DEVICE", f"{device} cannot be used: {'; '.join(said)}; or run on the CPU with --device cpu")
