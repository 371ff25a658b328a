"""Label pictures with an exported bundle, say how often it is right, add classes to it, and teach it photographs.

    from zsl_runtime import Classifier

    with Classifier.open("birds.bundle") as classifier:
        print(classifier.predict(["photo.jpg"])[0])
        classifier.teach({"Fish_Crow": ["crow1.jpg", "crow2.jpg"]})

No torch on this side.

Importing this package imports nothing heavy; each name below brings its module in when it is first used. It keeps
libraries from sending anything (`zsl_runtime.machine.libraries`), so import it before onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from zsl_runtime.machine.libraries import tame_libraries

if TYPE_CHECKING:
    from zsl_runtime.classes.changes import add_classes, teach_classes
    from zsl_runtime.errors import ZslError
    from zsl_runtime.explaining.explanation import Explanation, Spoken
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.labelling.evaluation import Evaluation, evaluate
    from zsl_runtime.labelling.snapshot import Prediction
    from zsl_runtime.pixels.pixels import PixelSpec

    __version__: str

tame_libraries()

_UNBUILT = "0.1.0.dev0"  # of a checkout that is imported without a build; also fallback_version in pyproject.toml
__all__ = [
    "ClassTable",
    "Classifier",
    "Evaluation",
    "Explanation",
    "PixelSpec",
    "Prediction",
    "Spoken",
    "ZslError",
    "__version__",
    "add_classes",
    "evaluate",
    "teach_classes",
]

_HOMES = {
    "ClassTable": "zsl_runtime.head.class_table",
    "Classifier": "zsl_runtime.labelling.classifier",
    "Evaluation": "zsl_runtime.labelling.evaluation",
    "Explanation": "zsl_runtime.explaining.explanation",
    "PixelSpec": "zsl_runtime.pixels.pixels",
    "Prediction": "zsl_runtime.labelling.snapshot",
    "Spoken": "zsl_runtime.explaining.explanation",
    "ZslError": "zsl_runtime.errors",
    "add_classes": "zsl_runtime.classes.changes",
    "evaluate": "zsl_runtime.labelling.evaluation",
    "teach_classes": "zsl_runtime.classes.changes",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _find_version()
    if name not in _HOMES:
        raise AttributeError(f"module 'zsl_runtime' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def _find_version() -> str:
    """The version that was built: its file is in wheels only. Not named as that file, whose import takes the name."""
    try:
        return str(import_module("zsl_runtime._version").__version__)
    except ModuleNotFoundError:
        return _UNBUILT


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
