"""The proposed split by itself: arbitrary bytes, and the published files where the data is there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.errors import ZslError
from zsl_train.data.proposed_split import read_proposed_split

DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))


needs_xlsa17 = pytest.mark.skipif(not (DATA / "xlsa17").is_dir(), reason="xlsa17 is not there ($ZSL_TEST_DATA)")


@settings(max_examples=40, deadline=None)
@given(start=st.sampled_from([b"", b"M" * 124 + b"\x00\x01IM"]), rest=st.binary(max_size=200))
def test_arbitrary_bytes_as_a_split_are_an_error_of_ours(tmp_path_factory, start, rest):
    path = tmp_path_factory.mktemp("m") / "att_splits.mat"
    path.write_bytes(start + rest)
    with pytest.raises(ZslError) as caught:
        read_proposed_split(path, ["a/b.jpg"], np.zeros(1, dtype=np.int64), ["a"])
    assert "\n" not in str(caught.value)


@pytest.mark.needs_data
@needs_xlsa17
@pytest.mark.parametrize(("folder", "kind"), [("CUB", "v1 (train_loc and val_loc hold 1764"), ("CUB_v2", "later")])
def test_the_real_proposed_split(folder, kind):
    features = scipy.io.loadmat(DATA / "xlsa17" / "CUB" / "resnet_fc1000.mat", variable_names=["image_files"])
    names = ["/".join(str(cell[0][0]).split("/")[-2:]) for cell in features["image_files"]]
    classes = sorted({name.split("/")[0] for name in names})
    labels = np.array([classes.index(name.split("/")[0]) for name in names], dtype=np.int64)
    split = read_proposed_split(DATA / "xlsa17" / folder / "att_splits.mat", names, labels, classes)
    seen = split.seen[labels]
    assert (split.seen.sum(), (~split.seen).sum()) == (150, 50)
    assert ((split.role == "train").sum(), (split.role[seen] == "test").sum()) == (7057, 1764)
    assert (split.role[~seen] == "test").sum() == 2967
    assert kind in split.version
    assert any(("names in resnet_fc1000.mat" in note) == (folder == "CUB") for note in split.notes)
    unseen = {line for line in (DATA / "xlsa17" / "CUB" / "testclasses.txt").read_text().split() if line}
    assert {classes[i] for i in np.flatnonzero(~split.seen)} == unseen
