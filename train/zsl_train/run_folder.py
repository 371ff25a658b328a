"""The run folder: what zsl-train writes and zsl-export reads (ARCHITECTURE.md, Run folder)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import ArtefactError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.bundle import Generation
    from zsl_runtime.class_table import SemanticRule
    from zsl_runtime.head import Replay
    from zsl_train.backbones.base import Backbone
    from zsl_train.methods.base import Dims, Trained

RUN_FORMAT = 1


@dataclass
class Run:
    """A finished training run, ready to export.

    Attributes:
        recipe: the resolved recipe as plain data.
        method: the method's name.
        trained: embedder, lift, synthesizer in eval mode with their weights.
        backbone: uint8 pictures (N, P, P, 3) -> region features (N, R, V), with its weights.
        dims: sizes the method was built for.
        generation: class table and head as they are shipped (number 1).
        replay: real seen-class features for later head fits.
        semantic_rule: attributes -> semantic vectors.
        scores: content of scores.json.
        pictures: (n, P, P, 3) uint8, the first `probe_count` for the probe, the rest for the parity gate.
        picture_labels: (n,) int64 rows of the class table.
        probe_count: number of probe pictures.
        seed: the seed heads are fitted with.
        info: content of run.json.

    """

    recipe: dict[str, Any]
    method: str
    trained: Trained
    backbone: Backbone
    dims: Dims
    generation: Generation
    replay: Replay
    semantic_rule: SemanticRule
    scores: dict[str, Any]
    pictures: NDArray[np.uint8]
    picture_labels: NDArray[np.int64]
    probe_count: int
    seed: int
    info: dict[str, Any]


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; ArtefactError E-RUN when it is missing or broken."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(
            "E-RUN", f"{path} is missing: {path.parent} is not a {what}; give the folder that zsl-train --out wrote"
        ) from None
    except ValueError:
        raise ArtefactError("E-RUN", f"{path} is not valid JSON; the run is damaged: train it again") from None
    if not isinstance(data, dict):
        raise ArtefactError("E-RUN", f"{path} holds {type(data).__name__}, expected an object; train it again")
    return data
