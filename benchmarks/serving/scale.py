"""What does one machine label a second: as one process, as shares of a run, by Ray, and from a store far away?

    python benchmarks/serving/scale.py --bundle demo/bundle --photographs demo/data/images [--ways WAY ...]

Every way labels the same photographs by the command or function that a user would call, with interpreter, opening and
writing, in turns; the rate without these is the command's own figure. All answers are compared with those of the first
way: the same classes in the same order, probabilities to 1e-3 of themselves. `store` fetches from fsspec's store in
memory, in which every read takes as long as an object store's first byte, with and without reading ahead.

Figures go to benchmarks/results/reliability/scale.json; a way that was not asked for keeps what it had.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from given import RELIABILITY, ROOT, commit

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = RELIABILITY / "scale.json"
INFER = [sys.executable, "-c", "import sys; from zsl_runtime.cli.infer import main; sys.exit(main())"]
RATE = re.compile(r"labelled \d+ of (\d+) .*?, ([\d.]+) pictures/s")
LATENCY = 0.05  # seconds until an object store gives the first byte: 20 to 200 ms are usual
Answers = dict[str, list[tuple[str, float]]]


def read(path: Path) -> Answers:
    """Path -> classes with probabilities, best first."""
    found: Answers = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(row["path"].rpartition("/")[2], []).append((row["class"], float(row["probability"])))
    return found


def check(found: Answers, wanted: Answers, way: str) -> None:
    """Exit where the answers of a way are others."""
    assert found.keys() == wanted.keys(), way
    for name, best in wanted.items():
        for (mine, chance), (other, right) in zip(found[name], best, strict=True):
            assert abs(chance - right) <= 1e-3 * right + 1e-9, (way, name)
            assert mine == other or abs(best[0][1] - best[1][1]) < 1e-3, (way, name)


def run(words: Sequence[object]) -> float:
    """Run zsl-infer; the rate that it tells."""
    done = subprocess.run([*INFER, *map(str, words)], capture_output=True, text=True, check=True, env=environment())
    told = RATE.search(done.stderr)
    assert told, done.stderr
    return float(told[2])


def environment() -> dict[str, str]:
    paths = os.pathsep.join(str(ROOT / name) for name in ("train", "export", "runtime"))
    return {**os.environ, "PYTHONPATH": paths}


class Work:
    """What there is to label, and where.

    Attributes:
        bundle, photographs: of the command line; each photograph stands there under several names.
        names: all files.
        folder: for outputs.
        backend: of all ways.

    """

    def __init__(self, bundle: Path, photographs: Path, folder: Path, backend: str, copies: int) -> None:
        self.bundle, self.folder, self.backend = bundle.resolve(), folder, backend
        self.photographs = folder / "photographs"
        self.photographs.mkdir()
        # Names of their own: the same name in two class folders would be one answer.
        for number, path in enumerate(copies * sorted(photographs.rglob("*.jpg"))):
            (self.photographs / f"{number:05d}.jpg").symlink_to(path.resolve())
        self.names = sorted(str(path) for path in self.photographs.iterdir())

    @property
    def options(self) -> list[object]:
        return ["--engine", self.bundle, "--backend", self.backend, "--quiet"]


def one(work: Work) -> Answers:
    """One process with all CPUs."""
    run([work.photographs, *work.options, "--output", work.folder / "one.csv"])
    return read(work.folder / "one.csv")


def shares(work: Work) -> Answers:
    """A process for each CPU, of one thread, each with a share; then their outputs are merged."""
    count = os.cpu_count() or 1
    parts = [work.folder / f"part-{index}.csv" for index in range(count)]
    words = [work.photographs, *work.options, "--threads", 1]
    begun = [
        subprocess.Popen(
            [*INFER, *map(str, [*words, "--shard", f"{index}/{count}", "--output", part])],
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        for index, part in enumerate(parts)
    ]
    assert [process.wait() for process in begun] == [0] * count
    merged = work.folder / "merged.csv"
    subprocess.run([*INFER, "--merge", *parts, "--output", merged], check=True, capture_output=True, env=environment())
    return read(merged)


RAY = """
import sys, time
from zsl_runtime.ray import label
import ray
import ray._private.node
# Helpers of Ray that take seconds of a CPU to start and that nothing here needs.
for start in ("start_monitor", "start_log_monitor"):
    setattr(ray._private.node.Node, start, lambda *_, **__: None)
bundle, folder, backend, count, listing = sys.argv[1:]
for attempt in range(5):
    try:
        ray.init(num_cpus=int(count) + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                 object_store_memory=200_000_000)
        break
    except Exception:
        ray.shutdown()
names = open(listing).read().split("\\n")
begin = time.perf_counter()
label(ray.data.from_items([{"path": name} for name in names]), bundle, workers=int(count), threads=1,
      backend=backend).write_parquet(folder)
print("seconds", time.perf_counter() - begin)
"""


def by_ray(work: Work) -> Answers:
    """An actor for each CPU, of one thread. Ray's own start is told apart: a cluster is there already."""
    import pyarrow.parquet as pq

    folder = Path(tempfile.mkdtemp(dir=work.folder))
    listing = work.folder / "names"
    listing.write_text("\n".join(work.names), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RAY, work.bundle, folder, work.backend, str(os.cpu_count() or 1), listing],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    (work.folder / "ray-seconds").write_text(
        re.search(r"^seconds (.+)$", done.stdout, re.MULTILINE)[1], encoding="utf-8"
    )
    rows = pq.read_table(folder).to_pylist()
    return {Path(row["path"]).name: list(zip(row["names"], row["probabilities"], strict=True)) for row in rows}


STORE = """
import sys, time
from pathlib import Path
import fsspec
from zsl_runtime.cli.infer import main
from zsl_runtime.labelling import reading
fetched, latency, folder, *words = sys.argv[1:]
memory = fsspec.filesystem("memory")
for path in Path(folder).iterdir():
    memory.pipe(f"/photographs/{path.name}", path.read_bytes())
real = memory.cat_file
def slow(path, **named):
    time.sleep(float(latency))
    return real(path, **named)
type(memory).cat_file = staticmethod(slow)
reading.FETCHED_AT_ONCE = int(fetched)
sys.exit(main(["memory://photographs", *words]))
"""


def store(work: Work, fetched: int) -> float:
    """The rate from a store whose every read takes LATENCY, with so many reads at once."""
    output = work.folder / "store.csv"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            STORE,
            *map(str, [fetched, LATENCY, work.photographs, *work.options, "--output", output]),
        ],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    told = RATE.search(done.stderr)
    assert told, done.stderr
    return float(told[2])


MORE = ("store", "paperwork")
WAYS = {"one": one, "shares": shares, "ray": by_ray}


def timed(work: Work, ways: Sequence[str], repeats: int) -> dict[str, object]:
    """Pictures a second of each way: the median of its turns, and all of them."""
    wanted = one(work)  # also what `auto` and the disk's cache want to have seen once
    seconds: dict[str, list[float]] = {way: [] for way in ways if way in WAYS}
    for _ in range(repeats):
        for way, taken in seconds.items():
            begin = time.perf_counter()
            answers = WAYS[way](work)
            took = time.perf_counter() - begin
            if way == "ray":
                took = float((work.folder / "ray-seconds").read_text(encoding="utf-8"))
            taken.append(took)
            check(answers, wanted, way)
            print(f"{way}: {len(work.names) / took:.1f} pictures/s", flush=True)
    found: dict[str, object] = {
        way: {
            "pictures_per_second": round(len(work.names) / statistics.median(taken), 2),
            "seconds": [round(one, 2) for one in taken],
            "pictures": len(work.names),
        }
        for way, taken in seconds.items()
    }
    if "paperwork" in ways:
        found["paperwork"] = paperwork()
        print(found["paperwork"], flush=True)
    if "store" in ways:
        rates: dict[str, float] = {}
        for fetched in (1, 8, 32):
            rates[str(fetched)] = statistics.median(store(work, fetched) for _ in range(repeats))
            check(read(work.folder / "store.csv"), wanted, "store")
            print(f"store, {fetched} at once: {rates[str(fetched)]:.1f} pictures/s", flush=True)
        found["store"] = {"latency_seconds": LATENCY, "pictures_per_second_by_reads_at_once": rates}
    return found


def paperwork(count: int = 500_000, shared: int = 10) -> dict[str, float]:
    """What sharing costs beside the labelling: names that a task goes through a second, and answers merged a second."""
    import io

    from zsl_runtime.errors import InputError
    from zsl_runtime.inputs.item import Item
    from zsl_runtime.inputs.share import Share
    from zsl_runtime.labelling.merging import merge
    from zsl_runtime.labelling.results import csv_header, encode_csv, open_partial
    from zsl_runtime.labelling.snapshot import Labelled, Prediction

    names = [f"s3://bucket/photographs/{number // 1000:06d}/{number:09d}.jpg" for number in range(count)]
    begin = time.perf_counter()
    own = sum(1 for _ in Share(0, shared).each(Item(name, b"") for name in names))
    named = time.perf_counter() - begin
    assert 0.9 < own / (count / shared) < 1.1
    answer = Prediction(("Amberneck Courser",), (True,), (0.5,))
    assert not isinstance(answer, InputError)
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for index in range(shared):
            parts.append(str(Path(folder) / f"{index}.csv"))
            share = Share(index, shared)
            with open_partial(parts[-1], {"--shard": str(share)}, resume=False, share=share) as out:
                out.write(csv_header(), [])
                batch = [Labelled(item.name, answer) for item in share.each(Item(name, b"") for name in names)]
                out.write_each([encode_csv([one], 0.0) for one in batch], batch)
                out.complete = True
        merged = io.BytesIO()
        begin = time.perf_counter()
        merge(parts, merged)
        took = time.perf_counter() - begin
    lines = merged.getvalue().decode().splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == names
    return {
        "names_per_second": round(count / named),
        "answers_merged_per_second": round(count / took),
        "bytes_of_an_answer": round(len(merged.getvalue()) / count, 1),
    }


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--copies", type=int, default=4, help="names of each photograph, so that starts weigh less")
    parser.add_argument("--ways", nargs="*", choices=[*WAYS, *MORE], default=[*WAYS, *MORE])
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Work(given.bundle, given.photographs, Path(folder), given.backend, given.copies)
        found = timed(work, given.ways, given.repeats)
    before = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    content = {
        "what": (__doc__ or "").partition("\n")[0],
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
        "command": "python benchmarks/serving/scale.py --bundle demo/bundle --photographs demo/data/images",
        "backend": given.backend,
        "ways": {**before.get("ways", {}), **found},
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
