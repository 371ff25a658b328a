"""DCR-GAN: settings, the searched space, the regressors and the GAN."""

from __future__ import annotations

from zsl_train.methods.dcr_gan.config import HEAD, NAME, PRESETS, Config
from zsl_train.methods.dcr_gan.method import build, fit, keep_views, stages

__all__ = ["HEAD", "NAME", "PRESETS", "Config", "build", "fit", "keep_views", "stages"]
