"""SP-AEN: settings, decoders, training, and its decoder of photographs."""

from __future__ import annotations

from zsl_train.methods.sp_aen.config import NAME, PRESETS, SNAPSHOTS, Config
from zsl_train.methods.sp_aen.method import build, fit, stages

__all__ = ["NAME", "PRESETS", "SNAPSHOTS", "Config", "build", "fit", "stages"]
