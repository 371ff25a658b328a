"""SC-EGG: settings, the three stages (SCEN, the guide, EGGN), and what ships of them."""

from __future__ import annotations

from zsl_train.methods.sc_egg.config import HEAD, NAME, PRESETS, PRESETS_FOR, WORDS, Config
from zsl_train.methods.sc_egg.method import build, fit
from zsl_train.methods.sc_egg.steps import stages

__all__ = ["HEAD", "NAME", "PRESETS", "PRESETS_FOR", "WORDS", "Config", "build", "fit", "stages"]
