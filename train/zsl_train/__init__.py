"""Training of generalized zero-shot classifiers: data, backbones, methods, the run folder.

Importing this package first of all keeps libraries from sending or keeping anything of their own.
"""

from zsl_runtime.machine.libraries import tame_torch

tame_torch()
