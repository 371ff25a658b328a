"""What zsl-doctor says of cards and of the backends that run on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsl_runtime.cli_doctor import NOTE, OK, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator


def cards() -> Iterator[Finding]:
    """The driver, and each card that it shows."""
    from zsl_runtime.cards import driver

    found = driver()
    if found.problem:
        yield Finding(NOTE, f"no NVIDIA card: {found.problem}")
        return
    yield Finding(OK, f"NVIDIA driver {found.version or 'of unknown version'}, which runs CUDA up to {found.cuda}")
    for card in found.cards:
        yield Finding(OK, f"cuda:{card.index} is {card}")


def on_card(name: str) -> Finding:
    """A backend that runs on a card: usable on card 0, or what is missing."""
    from zsl_runtime.backends import BACKENDS
    from zsl_runtime.backends.devices import find_card, trouble

    card, problem = find_card(0)
    error = trouble(name, None, "fp32", card)
    if error is not None:
        return Finding(NOTE, f"no backend {name}: {error.message}")
    if card is None:
        return Finding(NOTE, f"no backend {name}: its library is there, but {problem}")
    return Finding(OK, f"backend {name} on cuda:0 ({card.name}): {', '.join(BACKENDS[name].precisions)}")
