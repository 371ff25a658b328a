"""Parquet as other programs read it: pyarrow itself and pandas, against the answers that went in."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.labelling import parquet
from zsl_runtime.labelling.made import Origin
from zsl_runtime.labelling.parquet import ParquetMaker, readable, row_of

ORIGIN = Origin("birds.bundle", "0123456789abcdef" * 4, 3, "0.1.0")
PATHS = st.binary(min_size=1, max_size=30).map(os.fsdecode)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
CHANCES = st.floats(0, 1)
ROWS = st.builds(
    lambda name, split, chance: {"rank": 1, "class": name, "split": split, "probability": chance},
    TEXTS,
    st.sampled_from(["seen", "unseen"]),
    CHANCES,
)
ANSWERS = st.one_of(
    st.builds(lambda path, rows: {"path": path, "predictions": rows}, PATHS, st.lists(ROWS, max_size=4)),
    st.builds(
        lambda path, rows, distance, far: {
            "path": path,
            "predictions": rows,
            "distance": distance,
            "far": far,
            "transductive": True,
            "pass": "relabelled",
        },
        PATHS,
        st.lists(ROWS, max_size=4),
        st.none() | st.floats(0, 1e6),
        st.none() | st.booleans(),
    ),
    st.builds(
        lambda path, message: {"path": path, "error": {"code": "E-IMAGE-FORMAT", "message": message}}, PATHS, TEXTS
    ),
)


def written(answers, portion: int = 2) -> io.BytesIO:
    stream = io.BytesIO()
    maker = ParquetMaker(stream, ORIGIN)
    for start in range(0, len(answers), portion):
        maker.add(answers[start : start + portion])
    maker.add([])
    maker.finish()
    return io.BytesIO(stream.getvalue())


# --- rows, without pyarrow ------------------------------------------------------------------------------------------


@given(PATHS)
def test_a_path_is_text_and_its_bytes_are_kept_where_they_are_no_utf8(path):
    text, raw = readable(path)
    assert text.encode() is not None
    assert (os.fsencode(path) if raw is None else raw) == os.fsencode(path)
    assert (raw is None) == (text == path)


def test_the_best_class_has_columns_of_its_own():
    rows = [
        {"rank": 1, "class": "Owl", "split": "seen", "probability": 0.7},
        {"rank": 2, "class": "Crow", "split": "unseen", "probability": 0.2},
    ]
    assert row_of({"path": "a.jpg", "predictions": rows, "distance": 1.5, "far": False}) == {
        "path": "a.jpg",
        "class": "Owl",
        "split": "seen",
        "probability": 0.7,
        "classes": ["Owl", "Crow"],
        "splits": ["seen", "unseen"],
        "probabilities": [0.7, 0.2],
        "distance": 1.5,
        "far": False,
        "pass": None,
        "error_code": None,
        "error_message": None,
        "path_bytes": None,
    }


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.lists(ANSWERS, max_size=8))
def test_whatever_went_in_is_read_back_with_its_types(answers):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(written(answers))
    assert {field.name: str(field.type) for field in table.schema} == {
        "path": "string",
        "class": "string",
        "split": "string",
        "probability": "double",
        "classes": "list<element: string>",
        "splits": "list<element: string>",
        "probabilities": "list<element: double>",
        "distance": "double",
        "far": "bool",
        "pass": "string",
        "error_code": "string",
        "error_message": "string",
        "path_bytes": "binary",
    }
    assert not table.schema.field("path").nullable
    assert {key: value for key, value in table.schema.metadata.items() if key.startswith(b"zsl.")} == {
        b"zsl.bundle": b"birds.bundle",
        b"zsl.sha256": b"0123456789abcdef" * 4,
        b"zsl.generation": b"3",
        b"zsl.version": b"0.1.0",
    }
    rows = table.to_pylist()
    assert len(rows) == len(answers)
    for row, one in zip(rows, answers, strict=True):
        raw = row["path_bytes"]
        assert (os.fsencode(row["path"]) if raw is None else raw) == os.fsencode(one["path"])
        predictions = one.get("predictions", [])
        assert row["classes"] == [each["class"] for each in predictions]
        assert row["splits"] == [each["split"] for each in predictions]
        assert row["probabilities"] == [each["probability"] for each in predictions]
        assert row["class"] == (predictions[0]["class"] if predictions else None)
        assert (row["distance"], row["far"], row["pass"]) == (one.get("distance"), one.get("far"), one.get("pass"))
        assert row["error_message"] == (one["error"]["message"] if "error" in one else None)
    assert pa.__version__


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "size", "expected"), [(10, 1 << 30, [10, 10, 5]), (10**6, 1, [5, 5, 5, 5, 5])])
def test_row_groups_are_written_as_answers_come_and_are_bounded(monkeypatch, rows, size, expected):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet, "GROUP_ROWS", rows)
    monkeypatch.setattr(parquet, "GROUP_BYTES", size)
    answers = [{"path": f"{n}.jpg", "predictions": []} for n in range(25)]
    stream = io.BytesIO()
    maker = ParquetMaker(stream, ORIGIN)
    sizes = []
    for start in range(0, 25, 5):
        maker.add(answers[start : start + 5])
        sizes.append(stream.tell())
    maker.finish()
    assert sizes[-1] > sizes[0]  # some are in the file before the last answer came
    file = pq.ParquetFile(io.BytesIO(stream.getvalue()))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == expected
    assert file.read().column("path").to_pylist() == [one["path"] for one in answers]


@pytest.mark.slow
def test_pandas_reads_it_and_unfolds_the_lists(tmp_path):
    pytest.importorskip("pyarrow")
    pd = pytest.importorskip("pandas")
    rows = [{"rank": n, "class": f"c{n}", "split": "seen", "probability": 1 / n} for n in (2, 3)]
    answers = [{"path": "a.jpg", "predictions": rows}, {"path": "b.jpg", "error": {"code": "E-X", "message": "no"}}]
    path = tmp_path / "labels.parquet"
    path.write_bytes(written(answers).getvalue())
    frame = pd.read_parquet(path)
    assert frame.loc[frame["error_code"].isna(), "class"].tolist() == ["c2"]
    unfolded = frame.explode(["classes", "splits", "probabilities"])
    assert unfolded["classes"].dropna().tolist() == ["c2", "c3"]
    assert frame["probability"].dtype == "float64"


def test_a_bundle_whose_folder_is_no_utf8_is_named_all_the_same():
    pq = pytest.importorskip("pyarrow.parquet")
    stream = io.BytesIO()
    maker = ParquetMaker(stream, ORIGIN._replace(bundle=os.fsdecode(b"caf\xe9.bundle")))
    maker.finish()
    assert pq.read_schema(io.BytesIO(stream.getvalue())).metadata[b"zsl.bundle"] == b"caf\\xe9.bundle"
