"""Does a long run stay as it began? 100,000 pictures through zsl-infer, then a Classifier while classes come and go.

    python benchmarks/serving/long_run.py --bundle demo/bundle --photographs demo/data/images \
        --classes demo/data/more_classes.csv --work DIR [--pictures 100000] [--minutes 10]

The photographs are linked under as many names as pictures are wanted, in a shuffled order, and given to one `zsl-infer`
as a list on stdin. Meanwhile `zsl-classes` adds a class to the same bundle and takes it back, again and again: a run
answers by the generation that it began with. Memory, threads and open files of the process are looked at for every
hundredth of the pictures, and so is its processor time, which other work on the machine does not change. Every answer
must name the classes, in order, that a second computation (another backend, another process, before) gave for the same
photograph, with probabilities within TOLERANCE; how many came out with the very same digits as the first time is
counted. The second part does the same inside one process: a Classifier that looks for changes before every call, and
must answer by the generation that it says it has.

Figures go to benchmarks/results/reliability/long_run.json. Exit codes: 0 all answers right; 3 one was wrong.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from given import RELIABILITY, commit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RESULTS = RELIABILITY / "long_run.json"
BACKEND, SECOND = "ort", "openvino"
TOPK, BATCH = 5, 8
TOLERANCE = 2e-4  # of a probability, between two backends
CLOSE = 1e-6  # two probabilities nearer than this may come in either order
PAUSE = 15.0  # seconds between two changes of the classes
TICKS = os.sysconf("SC_CLK_TCK")
Answer = list[tuple[str, float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run both parts, write the file; returns the exit code."""
    asked = arguments(argv)
    asked.work.mkdir(parents=True, exist_ok=True)
    bundle = asked.work / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(asked.bundle, bundle)
    photographs = sorted(path for path in asked.photographs.rglob("*") if path.suffix.lower() in {".jpg", ".png"})
    expected = reference(bundle, photographs, asked.classes)
    report: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} CPUs",
        "command": f"benchmarks/serving/long_run.py --pictures {asked.pictures} --minutes {asked.minutes:g}",
        "photographs": len(photographs),
        "backend": BACKEND,
        "second_computation": SECOND,
        "tolerance": TOLERANCE,
    }
    report["infer"] = infer(bundle, photographs, expected["without"], asked)
    write(report)
    report["classifier"] = classify(bundle, photographs, expected, asked)
    write(report)
    return 3 if report["infer"]["wrong"] or report["classifier"]["wrong"] else 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bundle", "photographs", "classes", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    return parser.parse_args(argv)


def command(name: str, *words: object) -> list[str]:
    """Words that run a command of ours with this Python."""
    module = {"zsl-infer": "infer", "zsl-classes": "classes"}[name]
    code = f"import sys; from zsl_runtime.cli.{module} import main; sys.exit(main())"
    return [sys.executable, "-c", code, *map(str, words)]


def run(name: str, *words: object) -> None:
    """Run a command that must end with 0."""
    subprocess.run(command(name, *words), check=True, stdout=subprocess.DEVNULL)


def write(report: dict[str, Any]) -> None:
    """Write what is known so far."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def reference(bundle: Path, photographs: list[Path], classes: Path) -> dict[str, dict[str, Answer]]:
    """Answers of another backend in processes of their own, of the classes as they are and with those to be added."""
    grown = bundle.with_name("grown")
    shutil.rmtree(grown, ignore_errors=True)
    shutil.copytree(bundle, grown)
    run("zsl-classes", "add", "--engine", grown, "--attributes", classes)
    found = {}
    for name, folder in (("without", bundle), ("with", grown)):
        out = bundle.with_name(f"{name}.csv")
        listed = "\n".join(map(str, photographs)).encode()
        words = ("-", "--engine", folder, "--backend", SECOND, "--threads", 1, "--topk", 2 * TOPK, "--output", out)
        subprocess.run(command("zsl-infer", *words), input=listed, check=True, capture_output=True)
        with out.open(encoding="utf-8", newline="") as file:
            found[name] = {path: answer for path, answer, _ in answers(csv.reader(file))}
    return found


def answers(rows: Iterator[list[str]]) -> Iterator[tuple[str, Answer, tuple[str, ...]]]:
    """Path, classes with probabilities, and the digits as printed, of each picture of a CSV of zsl-infer."""
    next(rows)
    for path, lines in groupby(rows, key=lambda row: row[0]):
        listed = list(lines)
        yield path, [(row[2], float(row[4])) for row in listed], tuple(row[2] + row[4] for row in listed)


def agrees(answer: Answer, expected: Answer) -> float | None:
    """The largest difference of a probability; None where the classes are others or in another order."""
    by_name = dict(expected)
    if any(name not in by_name for name, _ in answer):
        return None
    worst = max(abs(probability - by_name[name]) for name, probability in answer)
    steps = pairwise(answer)
    ordered = all(by_name[one[0]] >= by_name[two[0]] - max(CLOSE, 1e-3 * by_name[two[0]]) for one, two in steps)
    return worst if ordered and worst <= TOLERANCE else None


def look(pid: int | str = "self") -> dict[str, float]:
    """Memory in MB, threads, open files and processor seconds of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {
        "rss_mb": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "anonymous_mb": round(int(status["RssAnon"].split()[0]) / 1024, 1),
        "threads": int(status["Threads"]),
        "files": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "cpu_s": (int(fields[11]) + int(fields[12])) / TICKS,
    }


class Changing(threading.Thread):
    """Adds classes to the bundle and takes them back, until it is stopped.

    Args:
        bundle: its folder.
        classes: their CSV.
        pause: seconds between two changes.

    """

    def __init__(self, bundle: Path, classes: Path, pause: float) -> None:
        super().__init__(name="changing", daemon=True)
        self.bundle, self.classes, self.pause = bundle, classes, pause
        self.done = threading.Event()
        self.changes = 0
        self.failed: list[str] = []

    def run(self) -> None:
        """Add, take back, throw away what nobody goes back to."""
        steps = (("add", "--attributes", self.classes), ("undo",), ("prune", "--keep", 3))
        while not self.done.is_set():
            for verb, *words in steps:
                said = subprocess.run(
                    command("zsl-classes", verb, "--engine", self.bundle, *words),
                    capture_output=True,
                    text=True,
                    check=False,
                )
                self.changes += said.returncode == 0
                if said.returncode:
                    self.failed.append(said.stderr[-300:])
                if verb != "prune":
                    self.done.wait(self.pause)

    def stop(self) -> None:
        """Wait for the change that is being made."""
        self.done.set()
        self.join()


def infer(
    bundle: Path, photographs: list[Path], expected: dict[str, Answer], asked: argparse.Namespace
) -> dict[str, Any]:
    """The first part."""
    links, of_link = asked.work / "links", {}
    shutil.rmtree(links, ignore_errors=True)
    draw = random.Random(0)
    for number in range(asked.pictures):
        photograph = draw.choice(photographs)
        link = links / f"{number // 1000:04}" / f"{number % 1000:03}{photograph.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(photograph, link)
        except OSError:
            link.symlink_to(photograph)
        of_link[str(link)] = str(photograph)
    listed = asked.work / "links.txt"
    listed.write_text("".join(f"{link}\n" for link in of_link), encoding="utf-8")
    words = ("-", "--engine", bundle, "--backend", BACKEND, "--threads", 1, "--topk", TOPK, "--quiet")
    first: dict[str, tuple[Answer, tuple[str, ...]]] = {}
    looks, done, wrong, same, worst, moved, wrongs = [], 0, 0, 0, 0.0, 0.0, []
    begun = time.monotonic()
    changing = Changing(bundle, asked.classes, PAUSE)
    with listed.open("rb") as stdin, (asked.work / "infer.err").open("wb") as stderr:
        process = subprocess.Popen(
            command("zsl-infer", *words), stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        assert process.stdout is not None
        order = iter(of_link.items())
        for path, answer, digits in answers(csv.reader(process.stdout)):
            if not done:
                changing.start()  # from now on: the run has its generation
            done += 1
            link, photograph = next(order)
            difference = agrees(answer, expected[photograph]) if link == path else None
            if difference is None:
                wrong += 1
                wrongs += [{"photograph": Path(photograph).name, "answer": answer}] if len(wrongs) < 5 else []
            else:
                worst = max(worst, difference)
            before, as_printed = first.setdefault(photograph, (answer, digits))
            same += as_printed == digits
            moved = max(moved, agrees(answer[:-1], before) or 0.0)  # the last may give way to one that is as probable
            if done % max(1, asked.pictures // 100) == 0 and done < asked.pictures:
                with suppress(OSError):
                    looks.append({"pictures": done, "s": round(time.monotonic() - begun, 1), **look(process.pid)})
                    print(json.dumps(looks[-1]), flush=True)
        code = process.wait()
    changing.stop()
    return {
        "pictures": done,
        "wanted": asked.pictures,
        "exit_code": code,
        "wrong": wrong + abs(asked.pictures - done),
        "first_wrong": wrongs,
        "same_digits_as_the_first_time": same,
        "largest_difference_to_first_time": moved,
        "largest_difference_to_second": worst,
        "changes_meanwhile": changing.changes,
        "changes_failed": changing.failed,
        "seconds": round(time.monotonic() - begun, 1),
        "first_and_last_tenth": tenths(looks),
        "looks": looks,
    }


def tenths(looks: list[dict[str, float]]) -> dict[str, Any]:
    """Memory and processor time a picture, of the first tenth after the very beginning, and of the last."""
    if len(looks) < 21:
        return {}
    ends = {"first": (looks[0], looks[10]), "last": (looks[-11], looks[-1])}
    return {
        name: {
            "cpu_ms_per_picture": round(1000 * (b["cpu_s"] - a["cpu_s"]) / (b["pictures"] - a["pictures"]), 3),
            "pictures_per_s": round((b["pictures"] - a["pictures"]) / (b["s"] - a["s"]), 2),
            "rss_mb": b["rss_mb"],
            "anonymous_mb": b["anonymous_mb"],
            "threads": b["threads"],
            "files": b["files"],
        }
        for name, (a, b) in ends.items()
    }


def classify(
    bundle: Path, photographs: list[Path], expected: dict[str, dict[str, Answer]], asked: argparse.Namespace
) -> dict[str, Any]:
    """The second part."""
    from zsl_runtime import Classifier

    new = {row["name"] for row in csv.DictReader(asked.classes.open(encoding="utf-8-sig"))}
    draw, first = random.Random(1), {}
    looks, done, wrong, same, reloads, worst = [], 0, 0, 0, 0, 0.0
    seen = {"with": 0, "without": 0}
    changing = Changing(bundle, asked.classes, 1.0)
    changing.start()
    begun = time.monotonic()
    with Classifier.open(bundle, BACKEND, threads=1) as classifier:
        while time.monotonic() - begun < 60 * asked.minutes:
            reloads += classifier.reload()
            state = "with" if new <= set(classifier.class_table.names) else "without"
            chosen = draw.sample(photographs, BATCH)
            for photograph, given in zip(chosen, classifier.predict(chosen, TOPK), strict=True):
                answer = list(zip(given.names, map(float, given.probabilities), strict=True))
                difference = agrees(answer, expected[state][str(photograph)])
                wrong += difference is None
                worst = max(worst, difference or 0.0)
                same += first.setdefault((state, photograph), answer) == answer
                done, seen[state] = done + 1, seen[state] + 1
            if (time.monotonic() - begun) // 10 >= len(looks):
                looks.append({"pictures": done, "s": round(time.monotonic() - begun, 1), **look()})
    changing.stop()
    return {
        "pictures": done,
        "of_state": seen,
        "wrong": wrong,
        "same_bits_as_the_first_time": same,
        "largest_difference_to_second": worst,
        "reloads": reloads,
        "changes": changing.changes,
        "changes_failed": changing.failed,
        "seconds": round(time.monotonic() - begun, 1),
        "first_and_last_tenth": tenths(looks),
        "looks": looks,
    }


if __name__ == "__main__":
    sys.exit(main())
