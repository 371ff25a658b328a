"""How fast is a ResNet-101 bundle on this card, beside torch and ONNX Runtime, and does anything wait or go wrong?

One command, one report: `python benchmarks/gpu.py --out report.json` (`make bench-gpu`). It has these sections, each of
which is measured or says by name why not:

- `tests`: the tests marked `gpu`, for a card that gives wrong answers has no speed.
- `rtx`: TensorRT-RTX on this card: whether its architecture is supported, and if so, whether it gives the answers.
- `backbones`: torch alone, pictures and regions on the card, eager and as a CUDA graph: what cuDNN reaches without a
  copy.
- `latency`: ready pictures in host memory to scores in host memory, copies included, at batch 1, 8, 64 and 256:
  TensorRT in each precision with and without CUDA graphs, ONNX Runtime CUDA, torch eager and compiled (with its own
  CUDA graphs, mode reduce-overhead). TF32 is off everywhere.
- `end_to_end`: JPEG photographs of 500 x 375 pixels to labels, decoding and resizing on the CPU included.
- `reload`: four threads label while classes are added by another process and taken over: wrong answers, longest pause.
- `pixels`: the CUDA kernels that resize and crop pictures on the card: whole calls, and the kernels alone.

Every answer is compared with float32 on the CPU before it is timed. Exit codes: 0 measured; 3 an answer was wrong; 4
there is no card, or nothing ran on it. The report is written in every case.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import traceback
import xml.etree.ElementTree as ET
from contextlib import ExitStack, suppress
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from gpu_contenders import (  # noqa: E402
    NotHereError,
    WrongAnswerError,
    check,
    contenders,
    head_of,
    time_call,
    time_in_turns,
)

from support.smooth_pictures import draw_smooth  # noqa: E402
from zsl_runtime.backends.auto import cpu_name  # noqa: E402
from zsl_runtime.errors import ZslError  # noqa: E402
from zsl_runtime.machine import cards  # noqa: E402
from zsl_runtime.machine.threads import usable_cpus  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpu_contenders import Opened

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_train.training.run_folder import Run

SECTIONS = ("tests", "rtx", "backbones", "latency", "end_to_end", "reload", "pixels")
BATCHES = (1, 8, 64, 256)
PHOTOGRAPHS = 512
PHOTOGRAPH = (500, 375)
PREDICT_ROUNDS = 3  # of all photographs
RELOAD_BATCH, ADDITIONS, RELOAD_SECONDS = 8, 5, 3.0
KERNEL_BATCHES, KERNEL_ROUNDS = (1, 8, 64, 256), 20
PACKAGES = (
    "numpy",
    "pillow",
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "nvidia-cudnn-cu13",
)
EXIT_DONE, EXIT_WRONG, EXIT_NO_CARD = 0, 3, 4


class Skipped(Exception):  # noqa: N818  # it is no error
    """A section cannot be measured here; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the report, print it; returns the exit code."""
    asked = arguments(argv)
    card = None if asked.device == "cpu" else int(asked.device.partition(":")[2] or 0)
    found = cards.driver()
    shown = None if card is None else found.card(card)
    report: dict[str, Any] = {
        "format": 1,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(card),
        "versions": versions(),
        "conditions": __doc__,
        "sections": {},
    }
    if card is not None and shown is None:
        why = found.problem or f"the driver shows {len(found.cards)} cards, and {asked.device} was asked for"
        report["sections"] = {name: {"skipped": why} for name in asked.sections}
        write(report, asked.out)
        return EXIT_NO_CARD
    with tempfile.TemporaryDirectory(prefix="zsl-bench-") as folder:
        bench = Bench(asked, Path(folder), card)
        steps: dict[str, Callable[[], Any]] = {
            "tests": bench.tests,
            "rtx": bench.rtx,
            "backbones": bench.backbones,
            "latency": bench.latency,
            "end_to_end": bench.end_to_end,
            "reload": bench.reload,
            "pixels": bench.pixels,
        }
        for name in asked.sections:
            tell(f"--- {name}")
            report["sections"][name] = one_section(steps[name])
            write(report, asked.out, quiet=True)  # what there is, should the rest be cut off
    report["wrong"] = bench.wrong
    write(report, asked.out)
    if bench.wrong:
        return EXIT_WRONG
    measured = [name for name, one in report["sections"].items() if "skipped" not in one]
    return EXIT_DONE if measured else EXIT_NO_CARD


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu.json"), help="the report [%(default)s]")
    parser.add_argument("--device", default="cuda:0", help="cuda:N; cpu tries the script itself [%(default)s]")
    parser.add_argument("--bundle", type=Path, help="an exported bundle; without it, ResNet-101 is made (torch too)")
    parser.add_argument("--precisions", default="fp32,fp16", help="of the bundle that is made [%(default)s]")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="comma list [%(default)s]")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="comma list [%(default)s]")
    parser.add_argument("--only", default="*", help="contenders whose name matches, such as 'tensorrt*' [%(default)s]")
    parser.add_argument("--seconds", type=float, default=3.0, help="that each line measures [%(default)s]")
    asked = parser.parse_args(argv)
    asked.sections = asked.sections.split(",")
    asked.batches = [int(size) for size in asked.batches.split(",")]
    asked.precisions = asked.precisions.split(",")
    unknown = [name for name in asked.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    if asked.device != "cpu" and not asked.device.startswith("cuda"):
        parser.error(f"--device is cuda:N or cpu, not {asked.device}")
    if min(asked.batches) < 1:
        parser.error("--batches are at least 1")
    return asked


def one_section(step: Callable[[], Any]) -> dict[str, Any]:
    """What a section found, or why it found nothing; what it fails with does not end the others."""
    try:
        return dict(step())
    except Skipped as why:
        tell(f"skipped: {why}")
        return {"skipped": str(why)}
    except ZslError as error:
        tell(f"skipped: {error}")
        return {"skipped": str(error)}
    except Exception as error:  # a report with a hole is better than none, if it says so
        tell(traceback.format_exc())
        return {"skipped": f"failed: {type(error).__name__}: {error}", "failed": True}


class Bench:
    """The sections over one bundle on one device; what they share is made when it is first needed.

    Attributes:
        wrong: names of what gave wrong answers.

    """

    def __init__(self, asked: argparse.Namespace, folder: Path, card: int | None) -> None:
        self.asked, self.folder, self.card = asked, folder, card
        self.device = "cpu" if card is None else f"cuda:{card}"
        self.wrong: list[str] = []
        self._bundle: Bundle | None = None
        self._run: Run | None = None
        self._files: list[str] = []

    # --- what is measured ---

    def bundle(self) -> Bundle:
        """The bundle that was given, or ResNet-101."""
        from zsl_runtime.bundle.bundle import Bundle

        if self._bundle is None:
            path = self.folder / "bundle"
            if self.asked.bundle is not None:
                shutil.copytree(self.asked.bundle, path)  # classes are added to it
            else:
                self.make(path)
            self._bundle = Bundle.open(path)
        return self._bundle

    def make(self, path: Path) -> None:
        """Export ResNet-101 with random weights."""
        try:
            from gpu_bundle import export, resnet_run
        except ModuleNotFoundError as error:
            raise Skipped(
                f"{error.name} is not installed, and without it no bundle can be made; give one with --bundle, or: pip "
                'install "zsl-deploy[train]"'
            ) from None
        tell("exporting ResNet-101 ...")
        self._run = resnet_run()
        export(self._run, path, self.asked.precisions, usable_cpus())

    def precisions(self) -> list[str]:
        """Those of the bundle that there are contenders for."""
        held = self.bundle().precisions
        return [name for name, key in (("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8-trt")) if key in held]

    def build_engines(self) -> dict[str, str]:
        """Build an engine in each precision; precision -> how long it took, or why there is none."""
        from zsl_runtime.trt.build import Shape, build_for_bundle
        from zsl_runtime.trt.library import find_library

        library = find_library()
        largest = max(*self.asked.batches, RELOAD_BATCH)
        said = {}
        for precision in self.precisions():
            tell(f"building an engine in {precision} with {library} ...")
            try:
                stored = build_for_bundle(self.bundle(), library, precision, shape=Shape(1, largest, largest))
                said[precision] = f"{library}: {stored.build_seconds:.1f} s, {stored.bytes / 1e6:.1f} MB"
            except ZslError as error:
                said[precision] = str(error)
            tell(said[precision])
        return said

    def expected(self, pictures: np.ndarray) -> np.ndarray:
        """Features in float32 on the CPU."""
        from zsl_runtime.backends.opening import open_backend

        backend = open_backend("ort", self.bundle(), device="cpu", precision="fp32")
        return np.concatenate([backend.features(pictures[at : at + 8]) for at in range(0, len(pictures), 8)])

    def pictures(self, count: int) -> np.ndarray:
        """Ready pictures, some of them more than once."""
        side = self.bundle().manifest["pixels"]["crop"]
        return np.resize(draw_smooth(min(count, 32), side, seed=6), (count, side, side, 3))

    def photographs(self) -> list[str]:
        """JPEG files of the size of common data sets' pictures."""
        if not self._files:
            from PIL import Image

            folder = self.folder / "photographs"
            folder.mkdir()
            for at, picture in enumerate(draw_smooth(32, 256, seed=6)):
                large = Image.fromarray(picture).resize(PHOTOGRAPH, Image.Resampling.BICUBIC)
                for copy in range(PHOTOGRAPHS // 32):
                    path = folder / f"{at:02d}-{copy:02d}.jpg"
                    large.save(path, quality=90)
                    self._files.append(str(path))
        return self._files

    # --- sections ---

    def tests(self) -> dict[str, Any]:
        """Run the tests marked `gpu` of this checkout."""
        self.need_card()
        report = self.folder / "tests.xml"
        words = ["-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}", "-p", "no:cacheprovider", "tests"]
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.is_file():
            raise Skipped(f"pytest did not run: {(done.stderr or done.stdout).strip()[-300:]}")
        found = read_junit(report)
        self.wrong += [f"test {name}" for name in found["failed"]]
        return found

    def rtx(self) -> dict[str, Any]:
        """Try TensorRT-RTX on this card, whatever its list of architectures says."""
        self.need_card()
        from zsl_runtime.trt.library import find_library

        library = find_library("rtx")
        found: dict[str, Any] = {"library": str(library), "card": str(cards.driver().card(self.card or 0))}
        from zsl_runtime.backends.tensorrt import TensorRtBackend
        from zsl_runtime.trt.build import Shape, build_for_bundle
        from zsl_runtime.trt.cuda import Cuda

        try:
            precision = self.precisions()[-1]
            stored = build_for_bundle(self.bundle(), library, precision, shape=Shape(1, 8, 8))
            found["built"] = f"{precision}, {stored.build_seconds:.1f} s, {stored.bytes / 1e6:.1f} MB"
            pictures = self.pictures(8)
            backend = TensorRtBackend(self.bundle(), stored, library, Cuda(self.card or 0), usable_cpus(), precision)
            try:
                from gpu_contenders import Opened

                call = Opened(lambda given: backend.run(given, head_of(self.bundle())), None, str(library))
                check(call, precision, pictures, self.expected(pictures), head_of(self.bundle()))
                found |= {"supported": True, "batch 8": time_call(call, pictures, seconds=self.asked.seconds)}
            finally:
                backend.close()
        except WrongAnswerError as error:
            self.wrong.append("tensorrt-rtx")
            found |= {"supported": True, "wrong": str(error)}
        except ZslError as error:
            found |= {"supported": False, "why": str(error)}
            tell(f"TensorRT-RTX does not support this card: {error}")
        return found

    def backbones(self) -> dict[str, Any]:
        """The backbones with torch, nothing copied."""
        self.need_card()
        try:
            import torch
            from gpu_backbones import shipped_backbones, time_backbone
        except ModuleNotFoundError as error:
            raise Skipped(f'{error.name} is not installed; pip install "zsl-deploy[train]"') from None
        if not torch.cuda.is_available():
            raise Skipped(f"torch {torch.__version__} does not see a card; install its CUDA build")
        found: dict[str, Any] = {"library": f"torch {torch.__version__}", "lines": {}}
        for backbone in shipped_backbones():
            try:
                timed = time_backbone(backbone, self.device, self.asked.batches)
            except WrongAnswerError as why:
                self.wrong.append(f"backbone {backbone.name}")
                found[backbone.name] = f"wrong: {why}"
                continue
            for precision, batches in timed.items():
                about = f"{backbone.name} {precision}"
                found["lines"][about] = {"batches": batches}
                for batch, line in batches.items():
                    tell(f"{about:<34}batch {batch:<5}{words_of(line)}")
        return found

    def latency(self) -> dict[str, Any]:
        """All contenders in turns, at every batch size."""
        bundle, head = self.bundle(), head_of(self.bundle())
        found: dict[str, Any] = {"lines": {}, "skipped": {}, "wrong": {}}
        if self.card is not None:
            try:
                found["engines"] = self.build_engines()
            except ZslError as error:
                found["engines"] = {"skipped": str(error)}
        few = self.pictures(8)
        wanted = self.expected(few)
        ready: dict[str, Opened] = {}
        with ExitStack() as stack:
            for one in contenders(bundle, self._run, self.card, self.precisions()):
                if not fnmatch(one.name, self.asked.only):
                    continue
                try:
                    opened = stack.enter_context(one.open())
                    check(opened, one.precision, few, wanted, head)
                    ready[one.name] = opened
                    found["lines"][one.name] = {"library": opened.library, "batches": {}}
                except NotHereError as why:
                    found["skipped"][one.name] = str(why)
                    tell(f"skipped {one.name}: {why}")
                except WrongAnswerError as why:
                    found["wrong"][one.name] = str(why)
                    self.wrong.append(one.name)
                    tell(f"WRONG {one.name}: {why}")
                except Exception as error:  # out of memory, say; the other contenders go on
                    found["skipped"][one.name] = f"failed: {type(error).__name__}: {error}"[:500]
                    tell(f"failed {one.name}: {error}")
            for batch in self.asked.batches:
                lines, failed = time_in_turns(ready, self.pictures(batch), seconds=self.asked.seconds)
                for name, line in lines.items():
                    found["lines"][name]["batches"][str(batch)] = line
                    tell(f"{name:<34}batch {batch:<5}{words_of(line)}")
                for name, why in failed.items():
                    found["skipped"][f"{name}, batch {batch}"] = f"failed: {why}"[:500]
                    tell(f"failed {name}, batch {batch}: {why}")
        if not found["lines"]:
            said = "; ".join(f"{name}: {why}" for name, why in {**found["skipped"], **found["wrong"]}.items())
            raise Skipped(f"nothing ran: {said}" if said else "no contender has such a name")
        found["skipped_contenders"] = found.pop("skipped")
        return {name: value for name, value in found.items() if value}

    def end_to_end(self) -> dict[str, Any]:
        """Photographs to labels with the Classifier, at every batch size, on each backend of the device."""
        from zsl_runtime import Classifier
        from zsl_runtime.backends.table import BACKENDS

        kind = "cpu" if self.card is None else "cuda"
        files, found, skipped = self.photographs(), {}, {}
        with Classifier.open(self.bundle(), backend="ort", device="cpu", precision="fp32") as classifier:
            wanted = [one.names[0] for one in classifier.predict(files[:: PHOTOGRAPHS // 32], topk=1)]
        ready: dict[str, Any] = {}
        with ExitStack() as stack:
            for name in (name for name, one in BACKENDS.items() if one.device == kind and one.fast):
                for precision in (one for one in self.precisions() if one in BACKENDS[name].precisions):
                    about = f"{name} {precision}"
                    if not fnmatch(about, self.asked.only):
                        continue
                    try:
                        classifier = stack.enter_context(
                            Classifier.open(self.bundle(), backend=name, device=self.device, precision=precision)
                        )
                        labels = [one.names[0] for one in classifier.predict(files[:: PHOTOGRAPHS // 32], topk=1)]
                    except ZslError as error:
                        skipped[about] = str(error)
                        tell(f"skipped {about}: {error}")
                        continue
                    same = sum(a == b for a, b in zip(labels, wanted, strict=True)) / len(wanted)
                    if same < (1.0 if precision == "fp32" else 0.9):
                        self.wrong.append(f"end to end {about}")
                        skipped[about] = f"wrong: only {same:.0%} of the labels are those of fp32 on the CPU"
                    else:
                        ready[about], found[about] = classifier, {}
            for batch in self.asked.batches:
                for about, line in self.predict_speeds(ready, files, batch).items():
                    found[about][str(batch)] = line
                    tell(f"{about:<34}batch {batch:<5}{words_of(line)}")
        if not found:
            raise Skipped("; ".join(f"{name}: {why}" for name, why in skipped.items()) or "nothing matches --only")
        return {"photographs": f"{len(files)} JPEG of {PHOTOGRAPH[0]} x {PHOTOGRAPH[1]}", "lines": found} | (
            {"skipped_contenders": skipped} if skipped else {}
        )

    def predict_speeds(self, classifiers: dict[str, Any], files: list[str], batch: int) -> dict[str, dict[str, float]]:
        """In turns, photographs a second of long calls; and of single photographs, call by call, percentiles."""
        from gpu_contenders import PERCENTILES
        from turns import Contender, in_turns

        def long_call(classifier: Any) -> Contender:
            return Contender(lambda: classifier.predict(files, batch_size=batch))

        found = in_turns(
            {about: long_call(one) for about, one in classifiers.items()},
            seconds=0.0,
            rounds=(PREDICT_ROUNDS, PREDICT_ROUNDS),
            warm_up=1,
        )
        lines = {about: {"photographs_per_second": round(len(files) / found.median(about), 1)} for about in classifiers}
        if batch == 1 and classifiers:

            def single_call(classifier: Any) -> Contender:
                given = itertools.cycle(files[:100])
                return Contender(lambda: classifier.predict([next(given)], batch_size=1))

            found = in_turns(
                {about: single_call(one) for about, one in classifiers.items()}, seconds=0.0, rounds=(100, 100)
            )
            for about, times in found.seconds.items():
                lines[about] |= {
                    name: round(1000 * float(np.quantile(times, at)), 4) for name, at in PERCENTILES.items()
                }
        return lines

    def reload(self) -> dict[str, Any]:
        """Add classes under load, on the first backend of the device that can be used."""
        from gpu_load import reload_under_load

        from zsl_runtime.backends.table import BACKENDS

        kind = "cpu" if self.card is None else "cuda"
        why = []
        precision = self.precisions()[-1] if self.card is not None else "fp32"
        for name in (name for name, one in BACKENDS.items() if one.device == kind and one.fast):
            try:
                load = reload_under_load(
                    self.bundle().path,
                    self.pictures(RELOAD_BATCH),
                    backend=name,
                    device=self.device,
                    precision=precision,
                    additions=ADDITIONS,
                    seconds=min(self.asked.seconds, RELOAD_SECONDS),
                )
            except ZslError as error:
                why.append(f"{name}: {error}")
                continue
            if load.failed or load.wrong:
                self.wrong.append(f"reload under load on {name}")
            tell(str(load))
            return {"backend": name, "precision": precision, "batch": RELOAD_BATCH, **load._asdict()}
        raise Skipped("; ".join(why))

    def pixels(self) -> dict[str, Any]:
        """Pictures of one size that lie on the card: calls one after the other, and the kernels alone."""
        self.need_card()
        import torch

        from zsl_runtime.pixels.cuda_pixels import CudaPixels, DevicePicture
        from zsl_runtime.pixels.pixels import PixelSpec, resize_crop

        kernel, spec = CudaPixels(self.card or 0), PixelSpec(256, 224)
        if not torch.cuda.is_available():
            raise Skipped(f"torch {torch.__version__} does not see a card, and holds the memory for this section")
        width, height = PHOTOGRAPH
        most = max(KERNEL_BATCHES)
        pictures = np.random.default_rng(1).integers(0, 256, (most, height, width, 3), dtype=np.uint8)
        on_card = torch.from_numpy(pictures).to(self.device)
        out = torch.empty((most, spec.crop, spec.crop, 3), dtype=torch.uint8, device=self.device)
        given = [DevicePicture(one.data_ptr(), height, width) for one in on_card]
        stream = torch.cuda.current_stream(self.device)
        kernel.resize_crop_pointers(given, spec, out.data_ptr(), stream.cuda_stream)
        stream.synchronize()
        if not np.array_equal(out.cpu().numpy(), np.stack([resize_crop(one, spec) for one in pictures])):
            self.wrong.append("pixels")
            return {"wrong": "the card's bytes are not the reference's"}
        lines = {}
        for batch in KERNEL_BATCHES:

            def calls(batch: int = batch) -> None:
                for _ in range(KERNEL_ROUNDS):
                    kernel.resize_crop_pointers(given[:batch], spec, out.data_ptr(), stream.cuda_stream)
                stream.synchronize()

            seconds, inside = call_and_kernel_seconds(calls)
            lines[str(batch)] = {
                "pictures_per_second": round(batch * KERNEL_ROUNDS / seconds, 1),
                "ms": round(1000 * seconds / KERNEL_ROUNDS, 4),
            }
            if inside:  # 0 where the profiler may not look
                lines[str(batch)]["kernels_pictures_per_second"] = round(batch * KERNEL_ROUNDS / inside, 1)
            tell(f"{'pixels':<34}batch {batch:<5}{words_of(lines[str(batch)])}")
        about = f"{width} x {height} to {spec.crop} x {spec.crop}"
        return {"lines": {about: {"batches": lines}}}

    def need_card(self) -> None:
        """Skipped unless this is about a card."""
        if self.card is None:
            raise Skipped("it needs a card, and --device is cpu")


def call_and_kernel_seconds(calls: Callable[[], None]) -> tuple[float, float]:
    """Of a call that waits for the card: its wall-clock time, and what our kernels took of the card's."""
    import time

    from torch.profiler import ProfilerActivity, profile

    calls()
    started = time.perf_counter()
    calls()
    seconds = time.perf_counter() - started
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        calls()
    return seconds, sum(one.time_range.elapsed_us() for one in seen.events() if "zsl_" in one.name) / 1e6


def read_junit(path: Path) -> dict[str, Any]:
    """Which tests passed, failed and were skipped, from pytest's own report."""
    passed, failed, skipped = [], [], {}
    for case in ET.parse(path).getroot().iter("testcase"):  # pytest's own file, written just now
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif (why := case.find("skipped")) is not None:
            skipped[name] = str(why.get("message"))
        else:
            passed.append(name)
    if not passed and not failed:
        reasons = sorted(set(skipped.values()))
        raise Skipped(f"no test ran: {'; '.join(reasons) or 'there is none'}")
    return {"passed": len(passed), "failed": failed, "skipped_tests": skipped}


def machine(card: int | None) -> dict[str, Any]:
    """The kind of machine: no host, no user, no folder."""
    found = cards.driver()
    said: dict[str, Any] = {
        "processor": cpu_name(),
        "usable_cpus": usable_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "driver": found.version,
        "cuda": found.cuda,
        "cards": [str(one) for one in found.cards],
    }
    query = "clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,ecc.mode.current"
    with suppress(OSError, subprocess.SubprocessError):
        words = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={card or 0}"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
        said["clocks"] = dict(zip(query.split(","), (one.strip() for one in done.stdout.split(",")), strict=False))
    return said


def versions() -> dict[str, str]:
    """Of everything that a figure depends on."""
    import zsl_runtime

    found = {"zsl-deploy": zsl_runtime.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def words_of(line: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:g}" for name, value in line.items())


def summary(report: dict[str, Any]) -> list[str]:
    """The report for people: what ran, how fast, and what did not, by name."""
    out = [f"card: {', '.join(report['machine']['cards']) or 'none'}; driver {report['machine']['driver'] or 'none'}"]
    for name, found in report["sections"].items():
        if "skipped" in found:
            out.append(f"skipped {name}: {found['skipped']}")
            continue
        out.append(f"{name}:")
        for about, line in found.get("lines", {}).items():
            for batch, figures in line.get("batches", line).items():
                out.append(f"  {about:<34}batch {batch:<5}{words_of(figures)}")
        plain = {key: value for key, value in found.items() if key not in {"lines", "skipped_contenders", "conditions"}}
        out += [f"  {key}: {value}" for key, value in plain.items()]
        out += [f"  skipped {about}: {why}" for about, why in found.get("skipped_contenders", {}).items()]
    out += [f"WRONG ANSWERS: {name}" for name in report.get("wrong", [])]
    return out


def write(report: dict[str, Any], path: Path, *, quiet: bool = False) -> None:
    """Write the report and, at the end, print it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if not quiet:
        for line in summary(report):
            print(line)
        print(f"report: {path}")


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
