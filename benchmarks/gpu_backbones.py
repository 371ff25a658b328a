"""What a backbone takes with torch alone, pictures and regions on the card: what cuDNN reaches without any copy.

For orientation beside `gpu_contenders.py`, whose calls are whole models from host memory to host memory.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gpu_contenders import WrongAnswerError

from support.random_resnet import random_resnet101
from support.smooth_pictures import draw_smooth
from zsl_export.half import HalfBackbone
from zsl_train.backbones import BACKBONES, ResNet101, build

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zsl_train.backbones import Backbone

CHECKED = 8  # pictures
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2}  # of the length of all regions, against float32 on the CPU
WARM_UP, ROUNDS = 8, 40


def shipped_backbones() -> list[Backbone]:
    """Those that a training can have; ResNet-101, whose weights would have to be fetched, with random ones."""
    made: list[Backbone] = []
    for name in BACKBONES:
        is_random = name == ResNet101.name
        made.append(random_resnet101(draw_smooth(CHECKED, ResNet101.sizes[0])).eval() if is_random else build(name))
    return made


def time_backbone(backbone: Backbone, device: str, batches: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Pictures a second by precision and batch, eager and, on a card, as one CUDA graph; float32 is float32.

    Raises:
        WrongAnswerError: the regions are not those of float32 on the CPU.

    """
    pictures = torch.from_numpy(draw_smooth(max(*batches, CHECKED), backbone.pixels.crop, seed=6))
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    try:
        with torch.inference_mode():
            wanted = backbone(pictures[:CHECKED]).numpy()
            lines = {}
            for precision in TOLERANCE:
                # A copy; channels last, as the pictures are, is what half precision is fastest in.
                half = HalfBackbone(backbone) if precision == "fp16" else copy.deepcopy(backbone)
                module = half.to(device, memory_format=torch.channels_last if precision == "fp16" else None).eval()
                check(module(pictures[:CHECKED].to(device)), wanted, precision)
                lines[precision] = {
                    str(batch): _speeds(module, pictures[:batch].to(device), wanted, precision) for batch in batches
                }
            return lines
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[:2]
        torch.backends.cudnn.benchmark = before[2]


def check(found: torch.Tensor, wanted: np.ndarray, precision: str) -> None:
    """WrongAnswerError unless the first regions are near enough."""
    regions = found[: len(wanted)].float().cpu().numpy()
    exact = wanted[: len(regions)].astype(np.float64)
    off = float(np.linalg.norm(regions - exact) / np.linalg.norm(exact))
    if not off <= TOLERANCE[precision]:  # NaN is not, either
        raise WrongAnswerError(f"regions in {precision} are off by {off:.1e} of their length")


def _speeds(module: torch.nn.Module, given: torch.Tensor, wanted: np.ndarray, precision: str) -> dict[str, float]:
    """Milliseconds of a call, and pictures a second."""
    on_card = given.device.type == "cuda"
    ways: dict[str, Callable[[], Any]] = {"eager": lambda: module(given)}
    if on_card:
        graph, result = _record(module, given)
        graph.replay()
        check(result, wanted, precision)
        ways["graph"] = graph.replay
    found = _median_ms(ways) if on_card else {"eager": _once_ms(ways["eager"])}
    line = {f"{how}_ms": round(ms, 4) for how, ms in found.items()}
    return line | {f"{how}_pictures_per_second": round(1000 * len(given) / ms, 1) for how, ms in found.items()}


def _median_ms(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """In turns, by the card's own events."""
    for call in ways.values():
        for _ in range(WARM_UP):
            call()
    marks: dict[str, list[Any]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, call in ways.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            marks[name].append((begin, end))
    torch.cuda.synchronize()
    return {name: float(np.median([begin.elapsed_time(end) for begin, end in of])) for name, of in marks.items()}


def _once_ms(call: Callable[[], Any]) -> float:
    """Where there is no card: to try the script."""
    call()
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def _record(module: torch.nn.Module, given: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """One CUDA graph of a call, and where its result will be; on a side stream first, as torch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            module(given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = module(given)
    return graph, result
