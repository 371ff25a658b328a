"""The tables of what was survived, for how long it ran, and how fast it serves: benchmarks/results/reliability."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import figure_tables
from figure_tables import one, paragraph, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PROTOCOLS = {"grpc": "gRPC", "http": "HTTP"}
BAD = ("crash", "hang", "memory", "bug")  # how an input may end that must not


def reliability(name: str) -> dict[str, Any]:
    """What a file of benchmarks/results/reliability says; nothing where it was not measured yet."""
    path = figure_tables.RESULTS / "reliability" / name
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def kills() -> str:
    """Points at which commands were killed: tried, survived, how they ended, and the test that tries them."""
    cases = sorted(reliability("kills.json").get("cases", {}).items())
    lines = [(case, *points([figure])) for case, figure in cases]
    return rows(("killed", "points", "survived", "how they ended", "test"), lines or [("not measured yet", *"----")])


def faults() -> str:
    """The other faults; of several commands that met the same one, all together."""
    together: dict[str, tuple[list[str], list[dict[str, Any]]]] = {}
    for case, figure in reliability("faults.json").get("cases", {}).items():
        command, _, fault = case.rpartition(": ")
        commands, figures = together.setdefault(re.sub(r" by -?\d+ h$", "", fault), ([], []))
        commands += [command] if command and command not in commands else []
        figures.append(figure)
    lines = [(fault, ", ".join(commands) or "-", *points(figures)) for fault, (commands, figures) in together.items()]
    head = ("fault", "commands", "points", "survived", "how they ended", "test")
    return rows(head, sorted(lines) or [("not measured yet", *"-----")])


def points(figures: Sequence[Mapping[str, Any]]) -> tuple[str, str, str, str]:
    """Points tried and survived, how they ended, and the tests, of cases of the fault suite."""
    ended: dict[str, int] = {}
    for figure in figures:
        for how, count in figure["ended"].items():
            ended[how] = ended.get(how, 0) + count
    told = ", ".join(f"{how} ({count:,})" for how, count in sorted(ended.items(), key=lambda one: -one[1])[:4])
    tests = sorted({figure["test"].removeprefix("tests/faults/").partition("[")[0] for figure in figures})
    both = (sum(figure[key] for figure in figures) for key in ("tried", "survived"))
    tried, survived = (f"{count:,}" for count in both)
    return tried, survived, told or "-", ", ".join(f"`{test}`" for test in tests)


def long_run() -> str:
    """100,000 pictures through zsl-infer, and a Classifier while classes come and go."""
    found, lines = reliability("long_run.json"), []
    for part, what in (("infer", "`zsl-infer`, one command"), ("classifier", "`Classifier`, one process")):
        if part in found and found[part]["first_and_last_tenth"]:
            figure = found[part]
            first, last = (figure["first_and_last_tenth"][end] for end in ("first", "last"))
            lines.append(
                (
                    what,
                    f"{figure['pictures']:,}",
                    f"{figure.get('changes_meanwhile', figure.get('changes')):,}",
                    f"{figure['wrong']:,}",
                    f"{first['anonymous_mb']:.0f} and {last['anonymous_mb']:.0f}",
                    f"{first['cpu_ms_per_picture']:.1f} and {last['cpu_ms_per_picture']:.1f}",
                    f"{first['files']} and {last['files']}",
                )
            )
    head = ("", "pictures", "changes meanwhile", "wrong", "MB, first and last tenth", "CPU ms a picture", "open files")
    return rows(head, lines or [("not measured yet", *"------")])


SCALE = {
    "one": "one process, all CPUs, with its start",
    "shares": "a process and a share for each CPU, and merging",
    "ray": "Ray, an actor for each CPU, without Ray's own start",
}


def scale() -> str:
    """What one machine labels a second, by the way that it is done."""
    found = reliability("scale.json")
    ways = found["ways"]
    lines = [[title, one(ways[way]["pictures_per_second"])] for way, title in SCALE.items() if way in ways]
    store = ways.get("store", {}).get("pictures_per_second_by_reads_at_once", {})
    lines += [
        [f"from a store, {reads} read{'s' if reads != '1' else ''} at once", one(rate)] for reads, rate in store.items()
    ]
    table = rows(["way", "photographs a second"], lines)
    more = ways.get("paperwork")
    sums = (
        f" A task goes through {more['names_per_second']:,} names a second to find its own, and "
        f"{more['answers_merged_per_second']:,} answers a second are merged."
        if more
        else ""
    )
    said = f"Measured on {found['date'][:10]} on {found['machine']}, at a load of {found['load']}.{sums}"
    return f"{table}\n{paragraph(said)}"


def tries() -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Of the fuzzed doors: door, way of making inputs, figures of the way, those of the door."""
    for door, found in sorted(reliability("fuzz.json")["doors"].items()):
        for way, figure in found.items():
            if isinstance(figure, dict):
                yield door, way, figure, found


def doors() -> str:
    """What was given to each door where files or requests come in."""
    lines, inputs, bad = [], 0, 0
    for door, way, figure, found in tries():
        ended = sum(figure[how] for how in BAD)
        bound = f"{figure['most_mebibytes']:,.0f}" + (f" of {found['bound_mebibytes']:,}" if way != "thread" else "")
        counts = (f"{figure[key]:,}" for key in ("inputs", "refused", "taken"))
        lines.append((f"`{door}`", way, *counts, str(ended), bound))
        inputs, bad = inputs + figure["inputs"], bad + ended
    lines.append(("all", "", f"{inputs:,}", "", "", str(bad), ""))
    head = ("door", "inputs are", "inputs", "refused", "taken", "crash, hang, bug, memory beyond the bound", "most MiB")
    ways = reliability("fuzz.json")["ways"]
    said = "; ".join(f"{way}: {meaning}" for way, meaning in ways.items())
    return f"{rows(head, lines)}\n{paragraph(f'How inputs are made. {said}.')}"


def hostile() -> str:
    """Bundles, graphs and signatures that somebody made to do harm."""
    graphs, bundles, signed = (reliability(f"{name}.json") for name in ("graphs", "hostile_bundles", "signatures"))
    files = signed["changed_files"].values()
    lines = [
        (
            "graphs of exports, changed at random",
            f"{graphs['changed_graphs']:,}",
            f"{graphs['refused_by_the_check']:,} refused by the check; {graphs['passed_the_check']:,} passed and ran",
            str(graphs["crashed"] + graphs["hung"]),
        ),
        (
            "a pipe, link, device, folder, ... in place of a file of a bundle, for each command",
            f"{bundles['runs']:,}",
            f"{bundles['answered']:,} answered, none wrote elsewhere",
            str(bundles["runs"] - bundles["answered"] + bundles["written_outside"]),
        ),
        (
            "documents of a bundle with other values",
            f"{bundles['document_runs']:,}",
            "all ended with an exit code that is documented",
            str(bundles["undocumented_exits"] + bundles["hangs"]),
        ),
        (
            "signatures, statements and keys, changed",
            f"{sum(file['inputs'] for file in files):,}",
            "nothing was taken that was not signed",
            str(sum(file[how] for file in files for how in BAD)),
        ),
        (
            "certificate chains, changed",
            f"{signed['changed_certificate_chains']['inputs']:,}",
            "none vouched for another key",
            str(signed["changed_certificate_chains"]["taken_with_another_key"]),
        ),
    ]
    return rows(("what was made", "how many", "how it ended", "crashed, hung or deceived"), lines)


def server() -> str:
    """The hour through Triton while classes come and go."""
    found = reliability("triton_soak.json")
    memory, latency = found["memory_mb"], found["latency_by_tenth"]
    lines = [
        ("requests, pictures in them", f"{found['requests']:,}, {found['pictures']:,}"),
        ("of these damaged on purpose", f"{found['bad_pictures']:,}"),
        ("changes of the classes meanwhile", f"{found['changes_of_classes']:,}"),
        ("requests that failed, answers that were wrong", f"{found['failed']}, {found['wrong']}"),
        (
            "memory in MB, mean of the first and the last tenth",
            f"{memory['mean_of_first_tenth']:.0f} and {memory['mean_of_last_tenth']:.0f}",
        ),
        *(
            (
                f"p{percent} in ms, by tenths of the time",
                ", ".join(f"{tenth[f'p{percent}_ms']:.0f}" for tenth in latency),
            )
            for percent in (50, 99)
        ),
    ]
    said = (
        f"{found['minutes']:.0f} minutes, {found['clients']} clients that ask again as soon as they are answered, 1 to "
        f"8 pictures a request; {found['server']}; server, clients and changes together on {found['machine']}, "
        f"{found['date'][:10]}."
    )
    return f"{rows(('', ''), lines)}\n{paragraph(said)}"


def speeds() -> Iterator[tuple[str, float, float | None, float | None]]:
    """Ways to have pictures labelled: the most a second, and p50 and p99 at half of what batches make in process."""
    found, scale = reliability("triton.json"), reliability("scale.json")["ways"]
    inside = found["in_process"]
    yield "in process, in batches", inside["pictures_per_second_in_batches"], None, None
    ways = [("in process, one by one", inside["open_loop"])]
    ways += [
        (f"Triton, {one['protocol'].upper().replace('GRPC', 'gRPC')}", one["open_loop"]) for one in found["triton"]
    ]
    half = inside["pictures_per_second_in_batches"] / 2
    for name, rates in ways:
        near = min(rates, key=lambda rate: abs(rate["asked_per_second"] - half))
        yield name, max(rate["answered_per_second"] for rate in rates), near["p50_ms"], near["p99_ms"]
    yield "Ray, an actor for each CPU", scale["ray"]["pictures_per_second"], None, None


def serving() -> str:
    """Pictures a second and latency, in process, through Triton, by Ray."""
    found = reliability("triton.json")
    lines = [(name, *map(one, figures)) for name, *figures in speeds()]
    wrong = sum(
        rate[how]
        for rates in (found["in_process"], *found["triton"])
        for rate in rates["open_loop"]
        for how in ("wrong", "failed")
    )
    said = (
        f"Pictures arrive one by one, at random moments, whether earlier ones are answered or not; client and server "
        f"on the same {found['machine']}. Wrong or failed: {wrong}. {found['server']}; {found['date'][:10]}."
    )
    head = ("", "pictures a second, at most", "p50 at half the load, ms", "p99, ms")
    return f"{rows(head, lines)}\n{paragraph(said)}"


def determinism() -> str:
    """Whether the same pictures get the same bits in other batches, orders and numbers of threads."""
    found = reliability("determinism.json")
    lines = []
    for backend, said in found["by"].items():
        ways = {name: way for name, way in said.items() if isinstance(way, dict)}  # a remark may stand beside them
        same = sum(way["same_bits"] for way in ways.values())
        most = max(way["probability"] for way in ways.values())
        other = sum(way["other_best"] for way in ways.values())
        lines.append((backend, f"{same} of {len(ways)}", f"{most:.1e}" if most else "0", str(other)))
    head = ("", "ways that gave the same bits", "largest difference of a probability", "other best class")
    said = (
        f"{found['pictures']} photographs, against {found['against']}: again, in another order, in batches of 1 to 48, "
        f"with other numbers of threads."
    )
    return f"{rows(head, lines)}\n{paragraph(said)}"


def survived() -> str:
    """The most telling figures, for the front page."""
    killed = reliability("kills.json")["cases"].values()
    soak, run = reliability("triton_soak.json"), reliability("long_run.json")["infer"]
    ends = [run["first_and_last_tenth"][end]["anonymous_mb"] for end in ("first", "last")]
    given = sum(figure["inputs"] for *_, figure, _ in tries())
    bad = sum(figure[how] for *_, figure, _ in tries() for how in BAD)
    ways = {name: (most, p99) for name, most, _, p99 in speeds()}
    batches, by_ray = (ways[name][0] for name in ("in process, in batches", "Ray, an actor for each CPU"))
    slow, (triton, waits) = ways["in process, one by one"][1], ways["Triton, gRPC"]
    lines = [
        (
            "`kill -9` while adding, teaching, training, exporting, ...",
            f"{sum(case['tried'] for case in killed):,} points",
            f"{sum(case['tried'] - case['survived'] for case in killed)} bundles or runs lost",
        ),
        (
            f"damaged files and requests at {len({door for door, *_ in tries()})} doors",
            f"{given:,} inputs",
            f"{bad} crashes, hangs or bugs",
        ),
        (
            f"{soak['minutes']:.0f} minutes of Triton while classes changed {soak['changes_of_classes']:,} times",
            f"{soak['requests']:,} requests",
            f"{soak['failed']} failed, {soak['wrong']} wrong",
        ),
        (
            "one `zsl-infer` while classes changed",
            f"{run['pictures']:,} pictures",
            f"{run['wrong']} wrong; {ends[0]:.0f} MB at the start, {ends[1]:.0f} at the end",
        ),
        (
            "pictures a second, two CPUs: in process, by Triton, by Ray",
            f"{batches:.0f}, {triton:.0f}, {by_ray:.0f}",
            f"p99 at half load {slow:.0f} ms in process, {waits:.0f} by Triton",
        ),
    ]
    return rows(("what was done to it", "how often", "how it ended"), lines)


TABLES: dict[str, Callable[[], str]] = {
    "kills": kills,
    "faults": faults,
    "doors": doors,
    "hostile": hostile,
    "long_run": long_run,
    "server": server,
    "serving": serving,
    "determinism": determinism,
    "scale": scale,
    "survived": survived,
}
