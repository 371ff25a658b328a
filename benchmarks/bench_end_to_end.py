"""How near is `zsl-infer` on a folder of photographs to the engine alone on ready tensors, and to its sum of work?

All in one process run. The folder is $ZSL_BENCH_PHOTOS (such as the 800 photographs of cub20), the
bundle $ZSL_BENCH_BUNDLE; without them, JPEG photographs of 500 x 375 pixels and EfficientNet-Lite2 at 260 px. The
result says which. The sum of work is what decoding, pixels, engine, head and output take of the CPUs at hand when each
is measured alone: no order of the work can be quicker. Parts and whole are measured in turns.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from turns import Contender, in_turns

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
TIMES = 5  # rounds, in each of which every part and all of it are measured once


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


def batches(count: int, squares) -> list:
    """Full batches for `count` pictures, and a last one of what is left."""
    sizes = [BATCH_SIZE] * (count // BATCH_SIZE) + [count % BATCH_SIZE] * (count % BATCH_SIZE > 0)
    starts = [at % (len(squares) - BATCH_SIZE + 1) for at in range(0, BATCH_SIZE * len(sizes), BATCH_SIZE)]
    return [squares[start : start + size] for start, size in zip(starts, sizes, strict=True)]


@pytest.fixture(scope="module")
def parts(classifier, files, squares):
    """Each stage on its own, as a call, and how many such calls all photographs take.

    The engine takes all CPUs, the others one.
    """
    snapshot, sample = classifier.snapshot(), files[:SAMPLE]
    decoded = [decode(path) for path in sample]
    scores = classifier.score_with(snapshot, squares[:BATCH_SIZE])[0]
    answers = [Labelled(path, one) for path, one in zip(sample, snapshot.best(scores, 5), strict=False)]
    ready = batches(len(files), squares)
    per_sample, per_batch = len(files) / len(sample), len(files) / BATCH_SIZE
    return {
        "decode": (lambda: [decode(path) for path in sample], per_sample),
        "pixels": (lambda: [resize_crop(picture, classifier.pixels) for picture in decoded], per_sample),
        "engine": (lambda: [classifier.score_with(snapshot, batch) for batch in ready], 1),
        "head": (lambda: snapshot.best(scores, 5), per_batch),
        "output": (lambda: encode_csv(answers, 0.0), per_batch),
    }


@pytest.fixture
def checked(classifier, files, shipped_bundle):
    """The command's first labels are those of the API; without that no speed means anything."""
    said = call(zsl_infer, *files[:SAMPLE], "--engine", shipped_bundle, "--topk", 1)
    wanted = [prediction.names[0] for prediction in classifier.predict(files[:SAMPLE], topk=1)]
    assert [row.split(",")[2] for row in said.out.decode().splitlines()[1:]] == wanted
    return shipped_bundle, files


def bench_end_to_end(benchmark, parts, checked, photograph_folder, tmp_path):
    """`zsl-infer FOLDER --output FILE --profile` in turns with its parts; what graphs take to load is left out."""
    bundle, files = checked
    out, said = tmp_path / "labels.csv", []

    def label() -> None:
        ended = call(zsl_infer, photograph_folder, "--engine", bundle, "--output", out, "--profile")
        assert ended.code in (0, 6), ended.err
        said.append(ended.err.splitlines())

    contenders = {name: Contender(part) for name, (part, _) in parts.items()} | {"all of it": Contender(label)}
    settings = {"seconds": 0.0, "rounds": (TIMES, TIMES)}
    found = benchmark.pedantic(in_turns, args=(contenders,), kwargs=settings, rounds=1)
    assert len({line.split(",")[0] for line in out.read_text().splitlines()[1:]}) >= 0.9 * len(files)
    # One of each for every round: what the stages took alone, and what all of it took.
    alone = {name: count * np.array(found.seconds[name]) for name, (_, count) in parts.items()}
    whole = np.array([float(lines[-1].split(" in ")[1].split(" s,")[0]) for lines in said[-TIMES:]])
    bound = alone["engine"] + sum(spent for name, spent in alone.items() if name != "engine") / usable_cpus()
    seconds = float(np.median(whole))
    benchmark.extra_info.update({f"{name}_alone_s": round(float(np.median(spent)), 3) for name, spent in alone.items()})
    benchmark.extra_info.update(
        {
            "pictures": len(files),
            "photographs": "given" if os.environ.get("ZSL_BENCH_PHOTOS") else "drawn",
            "rounds": TIMES,
            "end_to_end_s": round(seconds, 3),
            "pictures_per_second": round(len(files) / seconds, 2),
            "engine_alone_per_second": round(len(files) / float(np.median(alone["engine"])), 2),
            "sum_of_work_s": round(float(np.median(bound)), 3),
            "share_of_bound": round(float(np.median(bound / whole)), 3),
            "share_of_engine_alone": round(float(np.median(alone["engine"] / whole)), 3),
            "profile": said[-1][-9:],
        }
    )
