"""Does Triton with a bundle answer rightly for as long as it runs, while classes come and go?

    python benchmarks/serving/triton_soak.py --server DIR --bundle demo/bundle --photographs demo/data/images \
        --classes demo/data/more_classes.csv --work DIR [--minutes 60]

DIR is what `tools/triton_server.py prepare` made. Clients send picture files and prepared squares, some of them
damaged, by HTTP and gRPC, each as fast as it is answered; meanwhile `zsl-classes` adds a class to the bundle and takes
it back. Every answer is compared with a second computation of the generation that it says it is of: in another process,
without the server, from that generation's own file. Not one may fail, be of two generations, or be older than what was
in force when it was asked for. Memory of the server and its processes is looked at every ten seconds, and the latency
of each tenth of the run is told.

Figures go to benchmarks/results/reliability/triton_soak.json. Exit codes: 0 all answers right; 3 one was wrong.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import importlib.util
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from given import RELIABILITY, ROOT, bundle_and_pictures, commit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

RESULTS = RELIABILITY / "triton_soak.json"
TOPK = 5
PAUSE = 5.0  # seconds between two changes of the classes
LOOK = 10.0  # seconds between two looks at memory
TOLERANCE = 1e-5  # of a probability; the batch that a picture is in may change its last digits
CLASSES = "import sys; from zsl_runtime.cli.classes import main; sys.exit(main())"
CLIENTS = (("http", "encoded"), ("grpc", "encoded"), ("http", "images"))


def tool(name: str) -> ModuleType:
    """A file of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Second:
    """The second computation: features of every picture once, then each generation's own head in NumPy."""

    def __init__(self, bundle: Path, pictures: Sequence[bytes]) -> None:
        from zsl_runtime import Classifier

        with Classifier.open(bundle, "ort", threads=1) as classifier:
            self.squares = np.stack([classifier.read(one) for one in pictures])
            self.lifted = np.concatenate([classifier.canonical(self.squares[i : i + 1]) for i in range(len(pictures))])
            self.bundle = classifier.bundle
        self.made: dict[int, tuple[dict[str, int], Any, Any]] = {}
        self.lock = threading.Lock()

    def learn(self) -> int:
        """Reckon what the generation in force answers; returns its number."""
        generation = self.bundle.current()
        (weight,), (bias,) = generation.head.weights, generation.head.biases
        logits = (
            self.lifted.astype(np.float64) @ weight.astype(np.float64).T
            + bias
            - (generation.head.gamma * generation.table.seen)
        )
        logits /= generation.head.temperature
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        best = -np.sort(-chances, axis=1)[:, :TOPK]
        with self.lock:
            self.made[generation.number] = {name: j for j, name in enumerate(generation.table.names)}, chances, best
        return generation.number

    def agrees(self, number: int, picture: int, names: Sequence[str], chances: Sequence[float]) -> bool:
        """Whether an answer is that of this generation."""
        for _ in range(200):  # a generation may be served before we have read it
            with self.lock:
                known = self.made.get(number)
            if known is not None:
                break
            time.sleep(0.05)
        else:
            return False
        columns, all_chances, best = known
        own = [all_chances[picture, columns[name]] if name in columns else -1 for name in names]
        told = np.array(chances)
        return bool(
            len(set(names)) == TOPK
            and (abs(own - told) <= TOLERANCE).all()
            and (abs(best[picture] - told) <= TOLERANCE).all()
        )


class Run:
    """What clients, changes and looks at memory have in common."""

    def __init__(self, asked: argparse.Namespace, server: Any, second: Second, pictures: Sequence[bytes]) -> None:
        self.asked, self.server, self.second, self.pictures = asked, server, second, pictures
        self.end = time.monotonic() + 60 * asked.minutes
        self.begun = time.monotonic()
        self.number = second.learn()  # in force for sure; changes write it after they are done
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.latency: list[list[float]] = [[] for _ in range(10)]
        self.memory: list[tuple[float, int]] = []
        self.lock = threading.Lock()

    def client(self, place: int) -> None:
        """Ask until the end."""
        import tritonclient.grpc
        import tritonclient.http

        kind, name = CLIENTS[place % len(CLIENTS)]
        module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[kind]
        client = module.InferenceServerClient(getattr(self.server, kind))
        chance = random.Random(place)
        while time.monotonic() < self.end:
            self.ask(module, client, name, chance)

    def ask(self, module: Any, client: Any, name: str, chance: random.Random) -> None:
        picked = [chance.randrange(len(self.pictures)) for _ in range(chance.choice((1, 1, 1, 2, 3, 8)))]
        bad = {place for place in range(len(picked)) if name == "encoded" and chance.random() < 0.1}
        if name == "encoded":
            data = [b"no picture" if place in bad else self.pictures[one] for place, one in enumerate(picked)]
            given = module.InferInput(name, [len(picked), 1], "BYTES")
            given.set_data_from_numpy(np.array(data, np.object_).reshape(-1, 1))
        else:
            given = module.InferInput(name, [len(picked), *self.second.squares.shape[1:]], "UINT8")
            given.set_data_from_numpy(self.second.squares[picked])
        least, begun = self.number, time.monotonic()
        try:
            answer = client.infer("birds", [given], parameters={"topk": TOPK})
        except Exception as error:  # whatever it is, it is a failure of the server's
            with self.lock:
                self.counts["failed"] += 1
                self.wrong.append(f"{type(error).__name__}: {error}")
            return
        took = time.monotonic() - begun
        names, chances = answer.as_numpy("names"), answer.as_numpy("probabilities")
        errors, numbers = answer.as_numpy("error")[:, 0], set(answer.as_numpy("generation")[:, 0].tolist())
        problems = [] if len(numbers) == 1 and min(numbers) >= least else [f"generations {numbers}, at least {least}"]
        number = min(numbers)
        for place, one in enumerate(picked):
            if place in bad:
                right = errors[place].startswith(b"E-IMAGE-FORMAT: ") and not any(names[place])
            else:
                told = [text.decode() for text in names[place]]
                right = not errors[place] and self.second.agrees(number, one, told, chances[place].tolist())
            if not right:
                problems.append(
                    f"picture {one} by generation {number}: {names[place]} {chances[place]} {errors[place]}"
                )
        tenth = min(int(10 * (begun - self.begun) / (60 * self.asked.minutes)), 9)
        with self.lock:
            self.latency[tenth].append(took)
            self.counts["requests"] += 1
            self.counts["pictures"] += len(picked)
            self.counts["bad pictures"] += len(bad)
            self.counts[f"generation {number}"] += 1
            self.counts["wrong"] += len(problems)
            self.wrong += problems

    def changes(self) -> None:
        """Add a class, take it back, until the end."""
        rows = list(csv.reader(self.asked.classes.open(encoding="utf-8", newline="")))
        table = self.asked.work / "one.csv"
        turn = 0
        while time.monotonic() < self.end:
            row = list(rows[1 + turn // 2 % (len(rows) - 1)])
            row[rows[0].index("name")] += f" of change {turn}"  # the bundle may have the class itself
            with table.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([rows[0], row])
            words = ["add", "--attributes", str(table)] if turn % 2 == 0 else ["undo"]
            done = subprocess.run(
                [sys.executable, "-c", CLASSES, words[0], "--engine", str(self.bundle), *words[1:]],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                with self.lock:
                    self.wrong.append(f"zsl-classes {words}: {done.stderr}")
                return
            before, self.number = self.number, self.second.learn()
            self.counts["changes"] += self.number == before + 1
            turn += 1
            time.sleep(PAUSE)

    @property
    def bundle(self) -> Path:
        return self.second.bundle.path

    def looks(self) -> None:
        """Note the memory of the server until the end."""
        while time.monotonic() < self.end:
            self.memory.append((time.monotonic() - self.begun, self.server.memory()))
            time.sleep(LOOK)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it, write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("server", "bundle", "photographs", "classes", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(argv)
    bundle, pictures = bundle_and_pictures(asked)

    from zsl_export.to_triton import Repository, write_repository

    repository, _ = write_repository(str(bundle), asked.work / "repository", Repository(name="birds"))
    triton_server = tool("triton_server")
    second = Second(bundle, pictures)
    with triton_server.started(asked.server.resolve(), repository, asked.work / "server.log") as server:
        run = Run(asked, server, second, pictures)
        with ThreadPoolExecutor(asked.clients + 2) as pool:
            works = [pool.submit(run.client, place) for place in range(asked.clients)]
            works += [pool.submit(run.changes), pool.submit(run.looks)]
            for work in works:
                work.result()
    return report(run, len(pictures))


def report(run: Run, pictures: int) -> int:
    """Write the file; returns the exit code."""
    counts, memory = run.counts, [size for _, size in run.memory]
    generations = [name for name in counts if name.startswith("generation ")]
    tenths = [{"requests": len(one), "p50_ms": _ms(one, 50), "p99_ms": _ms(one, 99)} for one in run.latency if one]
    tenth = max(len(memory) // 10, 1)
    said = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} CPUs",
        "load_average": os.getloadavg(),
        "command": " ".join(["python", "benchmarks/serving/triton_soak.py", f"--minutes {run.asked.minutes:g}"]),
        "server": "Triton 2.51.0 (nvidia-pytriton 0.7.0), CPU",
        "minutes": run.asked.minutes,
        "clients": run.asked.clients,
        "different_pictures": pictures,
        "requests": counts["requests"],
        "pictures": counts["pictures"],
        "bad_pictures": counts["bad pictures"],
        "changes_of_classes": counts["changes"],
        "generations_seen": len(generations),
        "failed": counts["failed"],
        "wrong": counts["wrong"],
        "memory_mb": {
            "at_first": round(memory[0] / 1e6, 1),
            "mean_of_first_tenth": round(sum(memory[:tenth]) / tenth / 1e6, 1),
            "mean_of_last_tenth": round(sum(memory[-tenth:]) / tenth / 1e6, 1),
            "most": round(max(memory) / 1e6, 1),
        },
        "latency_by_tenth": tenths,
        "problems": run.wrong[:20],
    }
    run.asked.out.parent.mkdir(parents=True, exist_ok=True)
    run.asked.out.write_text(json.dumps(said, indent=1) + "\n")
    print(json.dumps(said, indent=1))
    return 3 if run.wrong or counts["requests"] == 0 or counts["changes"] == 0 else 0


def _ms(seconds: Sequence[float], percent: float) -> float:
    return round(1000 * float(np.percentile(seconds, percent)), 1)


if __name__ == "__main__":
    sys.exit(main())
