"""Rows kept between changes: what comes back, and that damage, loss and other bundles' files are never believed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from support.tiny_bundle import ATTRIBUTES, FEATURE, make_tiny_bundle
from zsl_runtime import row_cache
from zsl_runtime.adding import head_digest
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.bundle import Bundle
from zsl_runtime.class_table import ClassTable
from zsl_runtime.errors import ArtefactError
from zsl_runtime.generations import add_classes, prune, remove_classes, undo
from zsl_runtime.row_cache import Block, RowCache

WIDTH = 3


def block(rows: int, seed: int = 0) -> Block:
    return Block(np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float16), rows + 1)


@pytest.fixture
def filled(tmp_path):
    cache = RowCache(tmp_path, "aa", WIDTH)
    for seed, name in enumerate("xyz"):
        cache.put(name, block(4 + seed, seed))
    cache.put("nothing", block(0))
    cache.put_sums("head", {"x": np.full((4, 2), 1.5, np.float32), "unknown": np.zeros((2, 2), np.float32)})
    cache.save()
    return tmp_path


def equal(found: Block | None, wanted: Block) -> bool:
    return found is not None and np.array_equal(found.rows, wanted.rows) and found.total == wanted.total


def test_what_was_saved_comes_back_and_more_can_join(filled):
    cache = RowCache(filled, "aa", WIDTH)
    assert all(equal(cache.get(name), block(4 + seed, seed)) for seed, name in enumerate("xyz"))
    assert equal(cache.get("nothing"), block(0))
    assert cache.get("w") is None
    assert {key: value.tolist() for key, value in cache.sums("head").items()} == {"x": [[1.5, 1.5]] * 4}
    cache.put("w", block(2, 9))
    cache.save()
    again = RowCache(filled, "aa", WIDTH)
    assert equal(again.get("w"), block(2, 9))
    assert equal(again.get("z"), block(6, 2))


def test_another_bundle_s_rows_are_not_ours(filled):
    for cache in (RowCache(filled, "bb", WIDTH), RowCache(filled, "aa", WIDTH + 1)):
        assert cache.get("x") is None
        assert cache.sums("head") == {}


@pytest.mark.parametrize("name", [row_cache.INDEX, row_cache.BLOCKS])
def test_a_changed_byte_anywhere_is_noticed(filled, name):
    path = filled / row_cache.FOLDER / name
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        cache = RowCache(filled, "aa", WIDTH)
        found = [(cache.get(key), block(4 + seed, seed)) for seed, key in enumerate("xyz")]
        assert all(got is None or equal(got, wanted) for got, wanted in found)
        assert any(got is None for got, _ in found)
        assert all(np.all(value == 1.5) for value in cache.sums("head").values())
    path.write_bytes(whole[: len(whole) // 2])
    assert RowCache(filled, "aa", WIDTH).get("z") is None


@pytest.mark.parametrize("content", [b"", b"\n{}", b"[]", b"\xff" * 90])
def test_an_index_that_is_none_is_an_empty_cache(filled, content):
    (filled / row_cache.FOLDER / row_cache.INDEX).write_bytes(content)
    cache = RowCache(filled, "aa", WIDTH)
    assert cache.get("x") is None
    cache.put("x", block(4))
    cache.save()
    assert equal(RowCache(filled, "aa", WIDTH).get("x"), block(4))


def test_it_forgets_what_is_not_wanted_and_starts_anew_at_its_limit(filled, monkeypatch):
    cache = RowCache(filled, "aa", WIDTH)
    cache.keep_only({"y"})
    again = RowCache(filled, "aa", WIDTH)
    assert equal(again.get("y"), block(5, 1))
    assert again.get("x") is None
    assert (filled / row_cache.FOLDER / row_cache.BLOCKS).stat().st_size == 5 * WIDTH * 2
    monkeypatch.setattr(row_cache, "LIMIT", 40)
    again.put("v", block(6, 4))
    again.save()
    last = RowCache(filled, "aa", WIDTH)
    assert (last.get("y"), equal(last.get("v"), block(6, 4))) == (None, True)


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path):
    (tmp_path / row_cache.FOLDER).write_text("a file where the folder should be")
    cache = RowCache(tmp_path, "aa", WIDTH)
    cache.put("x", block(2))
    cache.save()
    assert RowCache(tmp_path, "aa", WIDTH).get("x") is None


# --- with a bundle ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def bundle(original, tmp_path) -> Bundle:
    return Bundle.open(shutil.copytree(original, tmp_path / "tiny"))


def birds(*names: str) -> ClassTable:
    raw = np.array([[0, 7, 1, 1, 7, 1.0], [5, 0, 5, 0, 0, 5], [3, 3, 3, 0, 0, 1]])[: len(names)]
    return ClassTable(names, np.zeros(len(names), dtype=bool), raw, ATTRIBUTES)


def test_with_a_cache_the_head_is_the_one_without_and_nothing_is_made_again(bundle, monkeypatch):
    add_classes(bundle, birds("heron"))
    first = bundle.current().head
    undo(bundle)
    lifted = []
    whole = OrtBackend.lift
    monkeypatch.setattr(OrtBackend, "lift", lambda self, x: lifted.append(len(x)) or whole(self, x))
    add_classes(bundle, birds("heron"))
    assert sum(lifted) == 40  # the new class's own rows alone
    shutil.rmtree(bundle.path / row_cache.FOLDER)
    undo(bundle)
    add_classes(bundle, birds("heron"))
    assert sum(lifted) > 200
    for ours, theirs in zip(bundle.current().head.weights, first.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_kept_log_sum_exps_are_those_of_the_head_in_force(bundle):
    """Of the head after an addition they are kept without looking at its rows again: the old ones and the new row."""
    add_classes(bundle, birds("heron"))
    head = bundle.current().head
    cache = RowCache(bundle.path, bundle.manifest_sha256, 2 * FEATURE)
    kept = cache.sums(head_digest(head))
    assert len(kept) == 16  # two blocks of each of the eight old classes
    for key, sums in kept.items():
        rows = cache.get(key).rows.astype(np.float64)
        for k, view in enumerate(head.views):
            logits = rows[:, view.start : view.stop] @ head.weights[k].T.astype(np.float64) + head.biases[k]
            np.testing.assert_allclose(sums[:, k], np.log(np.exp(logits).sum(axis=1)), atol=1e-3)


def test_pruning_drops_the_rows_of_classes_that_are_in_no_state_any_more(bundle):
    add_classes(bundle, birds("heron"))
    size = (bundle.path / row_cache.FOLDER / row_cache.BLOCKS).stat().st_size
    remove_classes(bundle, ["heron"])
    prune(bundle, 1)
    smaller = (bundle.path / row_cache.FOLDER / row_cache.BLOCKS).stat().st_size
    assert smaller == size - 40 * 2 * FEATURE * 2
    assert add_classes(bundle, birds("heron")).fits["heron"] > 0.95


def test_many_classes_are_added_in_groups(bundle, monkeypatch):
    monkeypatch.setattr("zsl_runtime.adding.TOGETHER", 2)
    steps = []
    change = add_classes(bundle, birds("heron", "cuckoo", "stork"), advance=steps.append)
    assert steps == [1, 1]
    assert len(change.generation.table) == 11
    assert min(change.fits.values()) > 0.9


def test_a_replay_that_was_changed_is_refused(bundle):
    path = bundle.path / "replay.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="E-BUNDLE-HASH"):
        add_classes(bundle, birds("heron"))
    assert bundle.current().number == 1
