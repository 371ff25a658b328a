"""What an engine was built for: keys, sentences, and which file of a bundle a precision means."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from support.engines import FACTS
from support.tiny_precisions import add_precisions
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import UsageError
from zsl_runtime.trt.facts import Profile, engine_precisions, graph_file, key


@pytest.fixture
def bundle(own_bundle) -> Bundle:
    return Bundle.open(own_bundle("a bundle"))


OTHER = {
    "graph_sha256": "1" * 64,
    "part": "lift",
    "flavour": "tensorrt-rtx",
    "version": "11.4.0.107",
    "compute_capabilities": ("8.9", "9.0"),
    "gpu": None,
    "precision": "fp16",
    "profiles": (Profile(1, 1, 8),),
    "max_classes": 100,
    "host_code": True,
    "platform": "windows-amd64",
}


def test_every_fact_makes_another_key():
    assert set(OTHER) == {one.name for one in fields(FACTS)}
    keys = {key(FACTS), *(key(replace(FACTS, **{name: value})) for name, value in OTHER.items())}
    assert len(keys) == len(OTHER) + 1
    assert all(len(one) == 16 and set(one) <= set("0123456789abcdef") for one in keys)
    assert key(FACTS) == key(replace(FACTS))


def test_facts_read_as_a_sentence():
    assert str(replace(FACTS, platform="linux-x86_64")) == (
        "model in fp32, tensorrt 11.4.0.106, compute capability 9.0 (NVIDIA H200), "
        "batches 1..8 (best 1) and 1..64 (best 64), linux-x86_64"
    )


@pytest.mark.parametrize(
    ("part", "precision", "code", "pattern"),
    [
        ("model", "bf16", "E-PRECISION-NAME", "which is a precision of CPUs; choose fp32, fp16, int8"),
        ("model", "fp8", "E-PRECISION-NAME", "there is no engine in 'fp8'; choose"),
        ("model", "int8", "E-PRECISION", r"holds fp32 and no int8; .*--precision fp32,int8 --out '.*a bundle' --force"),
        ("rows", "fp32", "E-ENGINE-PART", "has no graph 'rows'; it has model, synthesizer, lift"),
        ("head", "fp32", "E-ENGINE-PART", "has no graph 'head'"),
        ("lift", "fp16", "E-PRECISION", "the graph lift is in fp32 alone"),
    ],
)
def test_a_graph_that_is_not_there(bundle, part, precision, code, pattern):
    with pytest.raises(UsageError, match=pattern) as caught:
        graph_file(bundle, part, precision)
    assert (caught.value.code, caught.value.exit_code) == (code, 2)


def test_int8_is_the_symmetric_file(bundle):
    add_precisions(bundle.path, ("fp32", "int8-cpu", "int8-trt"), default="int8")
    both = Bundle.open(bundle.path)
    assert graph_file(both, "model", "int8") == "model.int8-trt.onnx"
    assert engine_precisions(both) == ["int8", "fp32"]
