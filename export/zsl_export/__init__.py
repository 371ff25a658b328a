"""From a finished run to a bundle: ONNX graphs, the parity gate, the folder that ships. This side needs torch.

Importing this package first of all keeps libraries from sending or keeping anything of their own.
"""

from zsl_runtime.machine.libraries import tame_torch

tame_torch()
