"""How near is `zsl-infer` on a folder of photographs to the engine alone on ready tensors, and to its sum of work?

All in one process run. The folder is $ZSL_BENCH_PHOTOS (such as the 800 photographs of cub20), the
bundle $ZSL_BENCH_BUNDLE; without them, JPEG photographs of 500 x 375 pixels and EfficientNet-Lite2 at 260 px. The
result says which. The sum of work is what decoding, pixels, engine, head and output take of the CPUs at hand when each
is measured alone: no order of the work can be quicker.
"""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from support.line import call
from zsl_runtime import Classifier
from zsl_runtime.cli.infer import main as zsl_infer
from zsl_runtime.inputs.files import find_files
from zsl_runtime.labelling.reading import BATCH_SIZE
from zsl_runtime.labelling.results import encode_csv
from zsl_runtime.labelling.snapshot import Labelled
from zsl_runtime.machine.threads import usable_cpus
from zsl_runtime.pixels.pixels import SUFFIXES, decode, resize_crop

SAMPLE = 64  # photographs that decoding and pixels are measured alone on
TIMES = 3  # that each part is measured; the quickest counts


@pytest.fixture(scope="module")
def classifier(shipped_bundle):
    with Classifier.open(shipped_bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(photograph_folder) -> list[str]:
    return list(find_files([str(photograph_folder)], SUFFIXES))


@pytest.fixture(scope="module")
def squares(classifier, files):
    """Ready tensors of one batch after the other, as the engine takes them; only some, which are used again."""
    return np.stack([classifier.read(path) for path in files[:SAMPLE]])


def quickest(call) -> float:
    """Seconds of the quickest of some calls."""
    times = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def batches(count: int, squares) -> list:
    """Full batches for `count` pictures, and a last one of what is left."""
    sizes = [BATCH_SIZE] * (count // BATCH_SIZE) + [count % BATCH_SIZE] * (count % BATCH_SIZE > 0)
    starts = [at % (len(squares) - BATCH_SIZE + 1) for at in range(0, BATCH_SIZE * len(sizes), BATCH_SIZE)]
    return [squares[start : start + size] for start, size in zip(starts, sizes, strict=True)]


@pytest.fixture(scope="module")
def alone(classifier, files, squares):
    """Seconds of each stage on its own, for all photographs: the engine with all CPUs, the others with one."""
    snapshot, sample = classifier.snapshot(), files[:SAMPLE]
    decoded = [decode(path) for path in sample]
    scores = classifier.score_with(snapshot, squares[:BATCH_SIZE])[0]
    answers = [Labelled(path, one) for path, one in zip(sample, snapshot.best(scores, 5), strict=False)]
    ready = batches(len(files), squares)
    per_sample, per_batch = len(files) / len(sample), len(files) / BATCH_SIZE
    return {
        "decode": per_sample * quickest(lambda: [decode(path) for path in sample]),
        "pixels": per_sample * quickest(lambda: [resize_crop(picture, classifier.pixels) for picture in decoded]),
        "engine": quickest(lambda: [classifier.score_with(snapshot, batch) for batch in ready]),
        "head": per_batch * quickest(lambda: snapshot.best(scores, 5)),
        "output": per_batch * quickest(lambda: encode_csv(answers, 0.0)),
    }


@pytest.fixture
def checked(classifier, files, shipped_bundle):
    """The command's first labels are those of the API; without that no speed means anything."""
    said = call(zsl_infer, *files[:SAMPLE], "--engine", shipped_bundle, "--topk", 1)
    wanted = [prediction.names[0] for prediction in classifier.predict(files[:SAMPLE], topk=1)]
    assert [row.split(",")[2] for row in said.out.decode().splitlines()[1:]] == wanted
    return shipped_bundle, files


def bench_engine_alone(benchmark, classifier, files, squares):
    """As many ready tensors as there are photographs, in full batches."""
    snapshot, ready = classifier.snapshot(), batches(len(files), squares)
    benchmark.pedantic(
        lambda: [classifier.score_with(snapshot, batch) for batch in ready], rounds=TIMES, warmup_rounds=1
    )
    benchmark.extra_info["pictures"] = len(files)
    if not benchmark.disabled:
        benchmark.extra_info["pictures_per_second"] = round(len(files) / benchmark.stats.stats.min, 2)


def bench_end_to_end(benchmark, alone, checked, photograph_folder, tmp_path):
    """`zsl-infer FOLDER --output FILE --profile`, graph loading left out as the profile does."""
    bundle, files = checked
    out, said = tmp_path / "labels.csv", []

    def label() -> None:
        ended = call(zsl_infer, photograph_folder, "--engine", bundle, "--output", out, "--profile")
        assert ended.code in (0, 6), ended.err
        said.append(ended.err.splitlines())

    benchmark.pedantic(label, rounds=TIMES)
    assert len({line.split(",")[0] for line in out.read_text().splitlines()[1:]}) >= 0.9 * len(files)
    seconds = min(float(lines[-1].split(" in ")[1].split(" s,")[0]) for lines in said)
    bound = alone["engine"] + sum(spent for name, spent in alone.items() if name != "engine") / usable_cpus()
    benchmark.extra_info.update({f"{name}_alone_s": round(spent, 3) for name, spent in alone.items()})
    benchmark.extra_info.update(
        {
            "pictures": len(files),
            "photographs": "given" if os.environ.get("ZSL_BENCH_PHOTOS") else "drawn",
            "end_to_end_s": round(seconds, 3),
            "pictures_per_second": round(len(files) / seconds, 2),
            "sum_of_work_s": round(bound, 3),
            "share_of_bound": round(bound / seconds, 3),
            "share_of_engine_alone": round(alone["engine"] / seconds, 3),
            "profile": said[-1][-9:],
        }
    )
