"""Fuzzes doors in child processes: `python tests/fuzz/run.py --out FILE [--inputs N | --seconds S] [DOOR ...]`.

A child may take so much memory and time for an input and no more; what breaks it is written into the corpus, where
test_doors.py replays it for ever. `--guided` lets atheris choose the inputs by what code they reach, where it is
installed. Figures of every door go to --out, added up over calls.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime as dt
import hashlib
import json
import mmap
import os
import platform
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from fuzz.doors import CORPUS, DOORS, MIB, Door, Finding  # noqa: E402
from fuzz.mutate import LARGEST, damaged  # noqa: E402

AT_ONCE = 2_000  # inputs of one child: what leaks would show, and a library that dies costs little
BEYOND = 8 << 30  # bytes that a child cannot even reserve; what it takes in fact is measured
SLOWER = 20  # times, under sanitizers on a busy machine
KINDS = ("crash", "hang", "memory", "bug")


class Shared:
    """What a child tells its parent while it can: counts, the largest growth of memory, and the input it is at."""

    fields = struct.Struct("<QQQQQ")  # done, taken, refused, most bytes, length of the input

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(self.fields.size + LARGEST))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)

    def write(self, *numbers: int) -> None:
        self.fields.pack_into(self.memory, 0, *numbers)

    def read(self) -> tuple[int, ...]:
        return self.fields.unpack_from(self.memory, 0)

    @property
    def data(self) -> bytes:
        start = self.fields.size
        return bytes(self.memory[start : start + self.read()[4]])

    def set_data(self, data: bytes) -> None:
        start = self.fields.size
        self.memory[start : start + len(data)] = data


# --- the child --------------------------------------------------------------------------------------------------------


def child(name: str, shared_path: str, seed: int, count: int, seconds: float) -> int:
    """Try `count` inputs, or one and what else `seconds` are enough for once all is imported.

    At the first finding it ends, with the input in `shared`.
    """
    door, shared = DOORS[name], Shared(Path(shared_path))
    random_ = random.Random(f"{seed} {name}")
    corpus = [path.read_bytes()[:LARGEST] for path in door.corpus]
    warm_up(door)
    bound_memory(door)
    done = taken = most = 0
    until = time.time() + seconds
    while done < count and (not done or time.time() < until):
        data = damaged(random_.choice(corpus), corpus, random_)
        shared.set_data(data)
        shared.write(done, taken, done - taken, most, len(data))
        grown, accepted = watched(door, data)
        done, taken, most = done + 1, taken + accepted, max(most, grown)
        shared.write(done, taken, done - taken, most, len(data))
    return 0


def warm_up(door: Door) -> None:
    """Import and make all that stays, so that it does not count as an input's; old crashers are no part of it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for path in door.corpus:
        if path.name.startswith("seed-"):
            with contextlib.suppress(Exception):
                door.try_one(path.read_bytes())


def die_with_parent() -> None:
    """A child that hangs must not outlive a parent that was killed (prctl PR_SET_PDEATHSIG of Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def bound_memory(door: Door) -> None:
    if not os.environ.get("ZSL_FUZZ_NATIVE"):  # sanitizers reserve terabytes
        size = status("VmSize") + BEYOND
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def status(key: str) -> int:
    """A line of this process's status, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def watched(door: Door, data: bytes) -> tuple[int, bool]:
    """Try one input in its time and memory; how much it took at its most, and whether it was taken."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak begins anew
    before = status("VmRSS")
    patience = SLOWER if os.environ.get("ZSL_FUZZ_NATIVE") else 1
    signal.setitimer(signal.ITIMER_REAL, door.seconds * patience)  # whose signal ends the process, in a library as well
    accepted = door.try_one(data)
    signal.setitimer(signal.ITIMER_REAL, 0)
    grown = status("VmHWM") - before
    if grown > door.mebibytes * MIB and not os.environ.get("ZSL_FUZZ_NATIVE"):  # whose shadow is several times as large
        raise Finding(f"it took {grown // MIB} MiB, and {door.mebibytes} are the most")
    return grown, accepted


# --- the parent -------------------------------------------------------------------------------------------------------


def fuzz(
    door: Door, inputs: int, seconds: float, seed: int, folder: Path, environment: dict[str, str] | None = None
) -> dict:
    """Children, one after the other, until `inputs` were tried or `seconds` are over."""
    said = {"inputs": 0, "refused": 0, "taken": 0, **dict.fromkeys(KINDS, 0), "most_mebibytes": 0.0, "seconds": 0.0}
    until, number, began = time.time() + seconds, 0, time.time()
    known: set[str] = set()
    while said["inputs"] < inputs and time.time() < until:
        path = folder / f"{door.name}.shared"
        path.unlink(missing_ok=True)
        shared = Shared(path)
        count = min(AT_ONCE, inputs - said["inputs"])
        left = until - time.time()
        words = [sys.executable, __file__, "--child", door.name, str(path), str(seed + number), str(count), str(left)]
        try:
            ended = subprocess.run(
                words,
                capture_output=True,
                timeout=max(60, left) + door.seconds * SLOWER,
                check=False,
                env=environment,
            )
            code, tail = ended.returncode, ended.stderr.decode(errors="replace")
        except subprocess.TimeoutExpired:
            code, tail = -signal.SIGALRM, ""
        done, taken, refused, most, _ = shared.read()
        number += 1
        said["inputs"] += done
        said["taken"] += taken
        said["refused"] += refused
        said["most_mebibytes"] = max(said["most_mebibytes"], round(most / MIB, 1))
        if code:
            said["inputs"] += 1
            kind = note(door, shared.data, code, tail, known)
            said[kind] += 1
            if len(known) > 60:
                break
    said["seconds"] = round(time.time() - began, 1)
    return said


def note(door: Door, data: bytes, code: int, tail: str, known: set[str]) -> str:
    """Keep what broke a child: one input for each way of breaking."""
    kind = "hang" if code in (-signal.SIGALRM, 142) else "crash" if code < 0 or "Sanitizer" in tail else "bug"
    if kind == "bug" and (" MiB, and" in tail or "out of memory" in tail or "MemoryError" in tail):
        kind = "memory"
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    places = [line for line in lines if line.startswith("File ")]
    # The summary of a sanitizer names no process and no address, which are others each time.
    last = next((line for line in lines if line.startswith("SUMMARY: ")), lines[-1].split(":")[0] if lines else "")
    way = f"{kind} {places[-1] if places else code} {last}"
    if way not in known:
        known.add(way)
        found = CORPUS / door.name / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
        found.write_bytes(data)
        print(
            f"{door.name}: {kind} (code {code}), {found.name}\n  {way}\n  {' | '.join(lines[-3:])[-900:]}", flush=True
        )
    return kind


def guided(door: Door, seconds: float, folder: Path) -> dict:
    """Let atheris choose inputs in a child; what breaks it goes into the corpus, too."""
    work = folder / f"{door.name}.guided"
    work.mkdir(exist_ok=True)
    words = [sys.executable, __file__, "--guide", door.name, str(work), str(seconds)]
    began = time.time()
    ended = subprocess.run(words, capture_output=True, check=False)
    tail = ended.stderr.decode(errors="replace")
    said = {"inputs": 0, "refused": 0, "taken": 0, **dict.fromkeys(KINDS, 0), "most_mebibytes": 0.0}
    counted = work / "counted"
    if counted.exists():
        said |= json.loads(counted.read_text(encoding="ascii"))
    for path in sorted(work.glob("crash-*")) + sorted(work.glob("timeout-*")) + sorted(work.glob("oom-*")):
        code = {"crash": 1, "timeout": -signal.SIGALRM, "oom": 1}[path.name.partition("-")[0]]
        tail += " MiB, and" if path.name.startswith("oom") else ""
        said[note(door, path.read_bytes(), code, tail, set())] += 1
        path.unlink()
    return {**said, "seconds": round(time.time() - began, 1)}


def guide(name: str, work: str, seconds: str) -> int:
    """The child that atheris leads."""
    import atheris

    door = DOORS[name]
    corpus = [path.read_bytes()[:LARGEST] for path in door.corpus]
    with atheris.instrument_imports(include=["zsl_runtime", "zsl_train", "zsl_export"]):
        warm_up(door)
    counted = {"inputs": 0, "taken": 0, "refused": 0}
    random_ = random.Random(1)
    path, last = Path(work) / "counted", time.time()

    def one(data: bytes) -> None:
        nonlocal last
        counted["inputs"] += 1
        counted["taken" if door.try_one(data) else "refused"] += 1
        if time.time() - last > 1:
            last = time.time()
            path.write_text(json.dumps(counted), encoding="ascii")

    def other(data: bytes, most: int, seed: int) -> bytes:
        if random_.random() < 0.5:
            return atheris.Mutate(data, most)
        return damaged(bytes(data), corpus, random_)[:most]

    seeds = Path(work) / "corpus"
    seeds.mkdir(exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-timeout={door.seconds}", f"-artifact_prefix={work}/"]
    options += [f"-rss_limit_mb={2048 + door.mebibytes}", f"-max_len={LARGEST}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(seeds), str(CORPUS / name)], one, custom_mutator=other)
    atheris.Fuzz()
    return 0


def kept(out: Path, door: str, said: dict, how: str) -> None:
    """Add the figures of one door to those of earlier calls."""
    known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"doors": {}}
    before = known["doors"].setdefault(door, {}).get(how)
    if before:
        most = max(before["most_mebibytes"], said["most_mebibytes"])
        said = {key: round(before[key] + said[key], 1) for key in said} | {"most_mebibytes": most}
    known["doors"][door][how] = said
    known["doors"][door] |= {"bound_mebibytes": DOORS[door].mebibytes, "bound_seconds": DOORS[door].seconds}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=TESTS, check=False)
    known |= {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} CPUs",
        "python": platform.python_version(),
        "command": "make fuzz",
        "ways": {
            "changed": "files of the corpus, changed by mutate.py",
            "guided": "chosen by atheris",
            "address": "calls of the compiled core under ASan and UBSan",
            "thread": "under TSan",
        },
        "total": sum(
            one[how]["inputs"] for one in known["doors"].values() for how in one if isinstance(one[how], dict)
        ),
    }
    known["doors"] = dict(sorted(known["doors"].items()))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        name, path, seed, count, seconds = sys.argv[2:]
        die_with_parent()
        try:
            return child(name, path, int(seed), int(count), float(seconds))
        except BaseException:
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            traceback.print_exc()
            return 1
    if sys.argv[1:2] == ["--guide"]:
        die_with_parent()
        return guide(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("doors", nargs="*", metavar="DOOR", help=f"of {', '.join(DOORS)}; all of them by default")
    parser.add_argument("--out", type=Path, help="JSON file of figures")
    parser.add_argument("--inputs", type=int, help="of each door; by default as many as the table says")
    parser.add_argument("--seconds", type=float, default=1e6, help="that each door gets at most")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--core", type=Path, help="a sanitized build of the compiled core, for the door native")
    parser.add_argument("--sanitizer", choices=["address", "thread"], default="address", help="of --core")
    parser.add_argument("--guided", action="store_true", help="by atheris, for --seconds each")
    given = parser.parse_args()
    import tempfile

    from fuzz.sanitized import environment

    around = environment(given.core.resolve(), given.sanitizer) if given.core else None
    how = "guided" if given.guided else given.sanitizer if given.core else "changed"
    found = 0
    with tempfile.TemporaryDirectory(prefix="zsl-fuzz-") as folder:
        for name in given.doors or DOORS:
            door = DOORS[name]
            if given.guided:
                said = guided(door, min(given.seconds, 3600), Path(folder))
            else:
                inputs = given.inputs or door.inputs
                said = fuzz(door, inputs, given.seconds, given.seed, Path(folder), around)
            print(f"{name}: {json.dumps(said)}", flush=True)
            found += sum(said[kind] for kind in KINDS)
            if given.out:
                kept(given.out, name, said, how)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
