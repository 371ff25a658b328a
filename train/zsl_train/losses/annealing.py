"""How a loss term's weight grows while training: plain functions of the epoch."""

from __future__ import annotations


def linear_ramp(epoch: float, start: float, end: float, value: float) -> float:
    """0 until `start`, from there in a straight line to `value` at `end`, then constant (docs/methods.md 6.3).

    Args:
        epoch: counted from 0.
        start: epoch at which the weight leaves 0.
        end: epoch at which it is whole; not after `start` means a step at `start`.
        value: the whole weight.

    """
    if epoch < start:
        return 0.0
    return value if epoch >= end else value * (epoch - start) / (end - start)
