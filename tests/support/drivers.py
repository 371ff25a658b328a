"""What NVIDIA's driver says, for tests on a machine that has none or another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsl_runtime.machine import cards

if TYPE_CHECKING:
    import pytest

    from zsl_runtime.machine.cards import Driver


def pretend_driver(patch: pytest.MonkeyPatch, driver: Driver) -> None:
    """Let this be what every room finds, until `patch` is undone: all of them ask `cards.driver`.

    A machine without it shows no card in any other way either.
    """
    patch.setattr(cards, "driver", lambda: driver)
    patch.setattr(cards, "has_nvidia", lambda: driver.there)
