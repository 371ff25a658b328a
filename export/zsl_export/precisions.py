"""Which precisions an export writes: names for users, files in the bundle. No import here costs anything."""

from __future__ import annotations

from zsl_runtime.errors import nearest

FP32, FP16, INT8 = "fp32", "fp16", "int8"
# What a user asks for -> what the bundle holds: key of the manifest's `precisions` -> file.
FILES: dict[str, dict[str, str]] = {
    FP32: {"fp32": "model.onnx"},
    FP16: {"fp16": "model.fp16.onnx"},
    INT8: {"int8-cpu": "model.int8-cpu.onnx", "int8-trt": "model.int8-trt.onnx"},
}
LARGEST_DROP = 100.0  # points: nothing is refused


def parse_precisions(text: str) -> tuple[str, ...]:
    """The precisions of a comma list, in the order given; the first is the bundle's default.

    Args:
        text: such as ``fp32,fp16,int8``; case and spaces around the names do not matter.

    Raises:
        ValueError: an unknown, repeated or empty name, with a message for the user.

    """
    names = tuple(name.strip().lower() for name in text.split(","))
    known = ", ".join(FILES)
    for name in names:
        if name == "bf16":
            raise ValueError(
                f"'bf16' is no file of a bundle: engines that have it run the fp32 graph; known are {known}"
            )
        if name not in FILES:
            shown = name if len(name) <= 20 else f"{name[:17]}..."
            raise ValueError(f"{shown!r} is no precision; known are {known}{nearest(shown, FILES)}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is listed twice; name each precision once")
    return names


def files_of(precisions: tuple[str, ...]) -> dict[str, str]:
    """The manifest's `precisions`: key -> file, in the order given."""
    return {key: name for precision in precisions for key, name in FILES[precision].items()}
