"""How many pictures a second does Triton label with a bundle, how long does each take, and what does the server cost?

    python benchmarks/serving/triton_load.py --server DIR --bundle demo/bundle --photographs demo/data/images --work DIR

An open loop: requests of one picture file begin at random moments (Poisson) of a given rate, whether or not those
before are answered, as strangers' requests do. Latency is counted from the moment at which a request should have begun,
so that a server which cannot keep up shows it. Rates are shares of what the same machine does in one process: first a
Classifier labels the same files one by one and in batches, then, in the same open loop, from as many threads as wait.
Every answer must name the class that the Classifier names. DIR is what `tools/triton_server.py prepare` made. About two
minutes. Figures go to benchmarks/results/reliability/triton.json. Exit codes: 0 all right; 3 an answer was wrong.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import random
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from given import RELIABILITY, ROOT, bundle_and_pictures, commit

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = RELIABILITY / "triton.json"
SHARES = (0.2, 0.5, 0.8, 0.95, 1.2)  # of the pictures a second that one process labels in batches
WAITING = 64  # requests in flight at most; one that must wait for its turn among them waits in its latency


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("server", "bundle", "photographs", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each rate")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(argv)
    bundle, pictures = bundle_and_pictures(asked)
    load_before = os.getloadavg()
    expected, alone, in_process = library(bundle, pictures, asked.seconds)
    rates = [share * alone["pictures_per_second_in_batches"] for share in SHARES]
    triton = [server(asked, bundle, pictures, expected, rates=rates, kind=kind) for kind in ("grpc", "http")]
    said = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": f"{os.cpu_count()} CPUs",
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "command": "python benchmarks/serving/triton_load.py",
        "server": "Triton 2.51.0 (nvidia-pytriton 0.7.0), CPU, one instance",
        "different_pictures": len(pictures),
        "bytes_of_a_picture": round(sum(map(len, pictures)) / len(pictures)),
        "seconds_a_rate": asked.seconds,
        "in_process": {**alone, "open_loop": in_process},
        "triton": triton,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(said, indent=1) + "\n")
    print(json.dumps(said, indent=1))
    wrong = sum(
        one["wrong"] + one["failed"] for runs in (in_process, *(t["open_loop"] for t in triton)) for one in runs
    )
    return 3 if wrong else 0


def library(
    bundle: Path, pictures: Sequence[bytes], seconds: float
) -> tuple[list[str], dict[str, float], list[dict[str, Any]]]:
    """The classes of the pictures; what one process does alone; and in the open loop."""
    from zsl_runtime import Classifier

    with Classifier.open(bundle, device="cpu") as classifier:
        expected = [one.names[0] for one in classifier.predict(pictures)]
        took = []
        for one in pictures:
            begun = time.perf_counter()
            classifier.predict([one])
            took.append(time.perf_counter() - begun)
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds / 2:
            classifier.predict(pictures)
            count += len(pictures)
        batches = count / (time.perf_counter() - begun)
        alone = {
            "one_by_one_p50_ms": _ms(took, 50),
            "one_by_one_p99_ms": _ms(took, 99),
            "pictures_per_second_in_batches": round(batches, 1),
        }
        runs = [
            open_loop(lambda i: classifier.predict([pictures[i]])[0].names[0], expected, share * batches, seconds)
            for share in SHARES
        ]
    return expected, alone, runs


def server(
    asked: argparse.Namespace,
    bundle: Path,
    pictures: Sequence[bytes],
    expected: Sequence[str],
    *,
    rates: Sequence[float],
    kind: str,
) -> dict[str, Any]:
    """The open loop against a server of its own."""
    import tritonclient.grpc
    import tritonclient.http

    sys.path.insert(0, str(ROOT / "tools"))
    import triton_server

    from zsl_export.to_triton import Repository, write_repository

    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[kind]
    inputs = []
    for picture in pictures:
        made = module.InferInput("encoded", [1, 1], "BYTES")
        made.set_data_from_numpy(np.array([[picture]], np.object_))
        inputs.append(made)
    shutil.rmtree(asked.work / "repository", ignore_errors=True)
    repository, _ = write_repository(str(bundle), asked.work / "repository", Repository(name="birds"))
    local = threading.local()
    with triton_server.started(asked.server.resolve(), repository, asked.work / "server.log") as running:

        def ask(place: int) -> str:
            if not hasattr(local, "client"):
                local.client = module.InferenceServerClient(getattr(running, kind))
                local.wanted = [module.InferRequestedOutput("names")]
            answer = local.client.infer(
                "birds", [inputs[place]], outputs=local.wanted, parameters={"topk": 1}, client_timeout=60
            ) if kind == "grpc" else local.client.infer(
                "birds", [inputs[place]], outputs=local.wanted, parameters={"topk": 1}
            )  # fmt: skip
            name: str = answer.as_numpy("names")[0, 0].decode()
            return name

        for place in range(len(pictures)):
            ask(place)
        runs = [open_loop(ask, expected, rate, asked.seconds) for rate in rates]
        memory = running.memory()
    return {"protocol": kind, "open_loop": runs, "server_memory_mb": round(memory / 1e6, 1)}


def open_loop(ask: Any, expected: Sequence[str], rate: float, seconds: float) -> dict[str, Any]:
    """Requests at random moments of a rate, for some seconds; how long each took, from when it should have begun."""
    chance = random.Random(int(rate * 1000))
    moments, at = [], 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        moments.append(at)
    took, wrong, failed, lock = [], [], [], threading.Lock()
    begun = time.perf_counter()

    def one(moment: float, place: int) -> None:
        try:
            name = ask(place)
        except Exception as error:  # whatever it is, it is a failure
            with lock:
                failed.append(repr(error))
            return
        done = time.perf_counter() - begun
        with lock:
            took.append(done - moment)
            if name != expected[place]:
                wrong.append(name)

    with ThreadPoolExecutor(WAITING) as pool:
        for count, moment in enumerate(moments):
            time.sleep(max(0.0, moment - (time.perf_counter() - begun)))
            pool.submit(one, moment, count % len(expected))
    whole = time.perf_counter() - begun
    return {
        "asked_per_second": round(rate, 1),
        "requests": len(moments),
        "answered_per_second": round(len(took) / whole, 1),
        "p50_ms": _ms(took, 50),
        "p99_ms": _ms(took, 99),
        "wrong": len(wrong),
        "failed": len(failed),
        **({"first_failure": failed[0]} if failed else {}),
    }


def _ms(seconds: Sequence[float], percent: float) -> float:
    return round(1000 * float(np.percentile(seconds, percent)), 1) if seconds else -1.0


if __name__ == "__main__":
    sys.exit(main())
