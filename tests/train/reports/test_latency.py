"""Percentiles of measured times: those of NumPy, from any file of pytest-benchmark; what is none is one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.line import call, succeed
from support.pages import checked
from zsl_runtime.errors import UsageError
from zsl_train.reports import latency
from zsl_train.reports.cli import main as zsl_report
from zsl_train.reports.latency import latency_page, milliseconds
from zsl_train.reports.measurements import parse_measured, read_measured, splits

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
TIMES = (np.random.default_rng(0).gamma(2.0, 0.001, 200) + 0.001).tolist()


def plain(name: str = "test_x", *, data: bool = True, **more) -> dict:
    """One benchmark as pytest-benchmark writes it."""
    stats = {
        "min": min(TIMES), "max": max(TIMES), "mean": float(np.mean(TIMES)), "median": float(np.median(TIMES)),
        "q1": float(np.quantile(TIMES, 0.25)), "q3": float(np.quantile(TIMES, 0.75)), "rounds": 200, "iterations": 1,
    }  # fmt: skip
    stats |= {"data": TIMES} if data else {}
    return {"name": name, "fullname": f"bench.py::{name}", "group": None, "extra_info": {}, "stats": stats, **more}


def document(*benchmarks: dict) -> dict:
    return {
        "machine_info": {"system": "Linux", "python_version": "3.11.7", "cpu": {"brand_raw": "a CPU"}},
        "datetime": "2026-01-01T00:00:00",
        "version": "5.1.0",
        "benchmarks": list(benchmarks),
    }


def measured(content: object):
    return parse_measured(json.dumps(content).encode(), "b.json")


def test_percentiles_are_those_of_the_times():
    (one,) = measured(document(plain())).times
    for key, at in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        assert one.percentiles[key] == pytest.approx(1000 * np.quantile(TIMES, at))
    assert one.quartiles == pytest.approx((1000 * np.quantile(TIMES, 0.25), 1000 * np.quantile(TIMES, 0.75)))
    assert one.rounds == 200


def test_without_the_times_there_is_the_median_and_no_guess():
    (one,) = measured(document(plain(data=False))).times
    assert one.percentiles == {"p50": pytest.approx(1000 * np.median(TIMES))}
    assert one.quartiles == pytest.approx((1000 * np.quantile(TIMES, 0.25), 1000 * np.quantile(TIMES, 0.75)))
    page = checked(latency_page([measured(document(plain(data=False)))]))
    assert "the file does not tell it" in page.text


def test_groups_are_peers_and_the_fastest_is_one():
    slow = plain("test_slow", group="sorting")
    slow["stats"]["data"] = [2 * one for one in TIMES]
    page = checked(latency_page([measured(document(plain("test_fast", group="sorting"), slow))]))
    assert "Of groups that did not run in turns" in page.text
    assert "2.00" in page.text
    assert page.text.index("test_fast") < page.text.index("test_slow")


def test_stages_by_name_and_their_share():
    one = plain(extra_info={"stages_ms": {"read": 1.0, "think": 2.0}, "pictures_per_second": 330.0})
    (split,) = splits(measured(document(one)))
    assert split.stages == (("read", 1.0), ("think", 2.0))
    assert split.whole == pytest.approx(1000 * np.median(TIMES))
    page = checked(latency_page([measured(document(one))]))
    assert "Where the time goes" in page.text
    assert f"{100 / split.whole:.0f}" in page.text
    assert "330" in page.text


def turns() -> dict:
    """As benchmarks/conftest.py notes what ran in turns."""
    found = {}
    for number, (stage, time) in enumerate({"decode": 2.0, "network": 6.0, "predict": 7.0}.items(), start=1):
        noted = {"p50_ms": time, "p90_ms": time + 1, "p99_ms": time + 3, "pictures_per_second": 100.0, "rounds": 40}
        if stage != "predict":
            noted["times_as_fast"] = {"as": "bench_3_predict[8]", "median": 7 / time, "low": 1.0, "high": 4.0}
        found[f"bench_{number}_{stage}[8]"] = noted
    return found


@pytest.mark.parametrize("rewritten", [False, True])
def test_what_ran_in_turns_is_split_into_stages(rewritten):
    """In a file of pytest-benchmark, and as `make bench` rewrites it."""
    if rewritten:
        content = {"date": "2026-01-01", "machine": {"processor": "a"}, "versions": {"numpy": "2"}, "figures": {}}
        content["figures"] = {f"bench_infer.py::{name}": noted for name, noted in turns().items()}
    else:
        content = document(plain(extra_info={"in_turns": turns()}))
    found = measured(content)
    (split,) = splits(found)
    assert (split.stages, split.whole) == ((("decode", 2.0), ("network", 6.0)), 7.0)
    page = checked(latency_page([found]))
    assert "Measured in turns" in page.text
    assert "3.50" in page.text
    assert "114" in page.text  # percent: they overlap


def test_numbered_things_without_a_whole_are_no_stages():
    figures = {f"b.py::bench_{k}_x[1]": {"p50_ms": 1.0} for k in range(3)}
    assert splits(measured({"figures": figures})) == []


@pytest.mark.parametrize("name", ["cpu.json", "adding.json", "2026-11-21-cpu.json", "2026-11-26-h200.json"])
def test_results_of_this_project_can_be_shown(name):
    found = read_measured(RESULTS / name, name)
    said = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    assert len(found.times) == json.dumps(said).count('"p50_ms"')
    assert found.about["processor"] == said["machine"]["processor"]
    checked(latency_page([found]))


def test_peers_are_told_with_their_ratio():
    found = read_measured(RESULTS / "cpu.json", "cpu.json")
    said = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))
    wanted = said["networks"]["resnet101"]["contenders"]["torch compile"]["best_peer"]
    one = next(one for one in found.times if (one.name, one.group) == ("torch compile", "resnet101"))
    assert (wanted["name"], wanted["times_as_fast"]["median"]) in [(ratio.to, ratio.median) for ratio in one.ratios]


def test_files_stand_side_by_side(tmp_path):
    slow = plain()
    slow["stats"]["data"] = [3 * one for one in TIMES]
    for folder, one in (("a", plain()), ("b", slow)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text(json.dumps(document(one)))
    out = tmp_path / "l.html"
    succeed(zsl_report, "latency", tmp_path / "a" / "x.json", tmp_path / "b" / "x.json", "--out", out)
    page = checked(out.read_bytes())
    assert "figures of several files compare only where" in page.text
    assert "3.00" in page.text
    assert str(tmp_path / "a" / "x.json") in page.text


def test_files_of_nothing_in_common():
    files = [measured(document(plain(name))) for name in ("test_a", "test_b")]
    assert "nothing in common" in checked(latency_page(files)).text


def test_names_of_any_kind():
    names = ("<script>x</script>", "a\u202eb", "\U0001f426", "n" * 300, "", "$x$", "</svg>")
    page = checked(latency_page([measured(document(*(plain(one, group="<b>&") for one in names)))]))
    assert "<script>x</script>" in page.text


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.5, "1,234"), (12.34, "12.3"), (0.01234, "0.0123"), (1e-9, "0.000000"), (None, "-")]
)
def test_a_time_has_three_digits(value, shown):
    assert milliseconds(value) == shown


# --- what is no benchmark ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no json", b"[]", b"3", b"null", b"{}", b"\xff\xfe", b'{"benchmarks": []}', b'{"benchmarks": {}}',
        b'{"benchmarks": [1, null, {}, {"stats": {}}, {"stats": {"median": 0}}]}', b'{"a": {"p50_ms": "x"}}',
        b'{"a": {"p50_ms": true}}', b"[" * 3000, b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"x": {"p50_ms": -1}}',
    ],
)  # fmt: skip
def test_what_holds_no_times_is_one_line(content, tmp_path):
    file = tmp_path / "b.json"
    file.write_bytes(content)
    said = call(zsl_report, "latency", file, "--out", tmp_path / "l.html")
    assert said.code == 2
    assert said.err.startswith("error: E-BENCHMARK: ")
    assert said.err.count("\n") == 1
    assert said.out == b""
    assert not (tmp_path / "l.html").exists()


def test_a_file_that_is_not_there_and_a_folder(tmp_path):
    for path, words in ((tmp_path / "none.json", "there is no file"), (tmp_path, "E-SYSTEM")):
        said = call(zsl_report, "latency", path, "--out", tmp_path / "l.html")
        assert said.code == 2
        assert words in said.err


def test_more_things_than_can_be_shown():
    with pytest.raises(UsageError, match="at most 20,000"):
        measured({"figures": {str(k): {"p50_ms": 1.0} for k in range(20_001)}})


def test_more_groups_and_more_splits_than_can_be_drawn(monkeypatch):
    monkeypatch.setattr(latency, "MOST_DRAWINGS", 2)
    monkeypatch.setattr(latency, "MOST_ROWS", 3)
    stages = {"stages_ms": {"read": 1.0, "think": 2.0}}
    things = [plain(f"test_{number}", group=f"group {number}", extra_info=stages) for number in range(5)]
    page = checked(latency_page([measured(document(*things))]))
    assert "The first 2 of 5 groups are drawn; the table has all." in page.text
    assert "The first 3 of 5 are drawn." in page.text
    assert all(f"test_{number}" in page.text for number in range(5))


def mangled():
    """Files of pytest-benchmark in which any value may be anything."""
    leaf = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8)
    )
    anything = st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=6,
    )
    maybe = lambda usual: usual | anything  # noqa: E731
    time = maybe(st.floats(1e-9, 1e3))
    ratio = maybe(st.fixed_dictionaries({"as": maybe(st.text(max_size=5)), "median": time, "low": time, "high": time}))
    noted = maybe(
        st.fixed_dictionaries(
            {
                "p50_ms": time,
                "p90_ms": time,
                "p99_ms": time,
                "rounds": maybe(st.integers(1, 9)),
                "times_as_fast": ratio,
                "stages_ms": maybe(st.dictionaries(st.text(max_size=4), time, max_size=3)),
            }
        )
    )
    stats = maybe(
        st.fixed_dictionaries(
            {"median": time, "q1": time, "q3": time, "rounds": maybe(st.integers(1, 9))},
            optional={"data": maybe(st.lists(time, max_size=6))},
        )
    )
    name = maybe(st.sampled_from(["b.py::bench_1_a[1]", "b.py::bench_2_b[1]", "x"]))
    info = maybe(
        st.dictionaries(
            st.sampled_from(["in_turns", "stages_ms", "best_peer", "x"]),
            maybe(st.dictionaries(st.text(max_size=6), noted, max_size=2)),
            max_size=3,
        )
    )
    one = maybe(
        st.fixed_dictionaries(
            {"stats": stats},
            optional={"name": name, "fullname": name, "group": maybe(st.text(max_size=5)), "extra_info": info},
        )
    )
    return maybe(
        st.fixed_dictionaries(
            {},
            optional={
                "benchmarks": maybe(st.lists(one, max_size=3)),
                "machine_info": anything,
                "machine": anything,
                "versions": anything,
                "datetime": anything,
                "figures": maybe(st.dictionaries(st.text(max_size=6), noted, max_size=3)),
            },
        )
    )


def read_or_refused(content: object):
    """What is read of a document; None where it is refused, in one line with the code."""
    try:
        return measured(content)
    except UsageError as error:
        return None if error.code == "E-BENCHMARK" and "\n" not in str(error) else error


@settings(max_examples=150)
@given(mangled())
def test_whatever_a_file_holds_it_is_times_or_one_error(content):
    found = read_or_refused(content)
    if found is None:
        return
    assert found.times
    for one in found.times:
        assert all(0 < value < 1e15 for value in one.percentiles.values())
        assert "p50" in one.percentiles
    splits(found)


@settings(max_examples=10)
@given(mangled())
def test_whatever_is_read_can_be_drawn(content):
    found = read_or_refused(content)
    if found is not None:
        checked(latency_page([found, found]))


@given(st.binary(max_size=300))
def test_any_bytes_are_times_or_one_error(content):
    with pytest.raises(UsageError):
        parse_measured(content, "b.json")
