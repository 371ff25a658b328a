"""What every backbone promises: frozen, in eval mode, weights checked before they are taken over."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from support.tiny_backbone import FixedBackbone
from zsl_runtime.errors import ArtefactError, UsageError, ZslError
from zsl_train.backbones import BACKBONES, build, rebuild
from zsl_train.backbones.base import read_weights


def test_pictures_are_normalised_inside_and_regions_are_in_row_order():
    backbone = FixedBackbone()
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    weight = backbone.conv.weight.numpy().astype(np.float64)  # (5, 3, 4, 4)
    normal = (pictures - np.array([120.0, 110.0, 100.0])) / 64
    expected = np.empty((3, 16, 5))
    for region in range(16):
        row, column = divmod(region, 4)
        patch = normal[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]  # (3, 4, 4, 3)
        expected[:, region] = np.einsum("nhwc,ochw->no", patch, weight)
    got = backbone(torch.from_numpy(pictures))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-4)


def test_train_mode_never_comes_back_and_nothing_takes_a_gradient():
    backbone = FixedBackbone()
    outer = torch.nn.Sequential(backbone, torch.nn.Dropout())
    outer.train()
    assert outer[1].training
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_the_hash_is_about_values_not_about_files(tmp_path):
    backbone = FixedBackbone()
    before = backbone.weights_sha256
    torch.save(backbone.state_dict(), tmp_path / "w.pth")
    save_file(backbone.state_dict(), tmp_path / "w.safetensors")
    for file in ("w.pth", "w.safetensors"):
        assert FixedBackbone().load_weights(read_weights(tmp_path / file), file).weights_sha256 == before
    changed = backbone.state_dict()["conv.weight"].clone()
    changed[0, 0, 0, 0] += 1e-6
    assert backbone.load_weights({"conv.weight": changed}, "here").weights_sha256 != before


def test_half_precision_files_are_widened():
    backbone = FixedBackbone()
    half = backbone.state_dict()["conv.weight"].half()
    backbone.load_weights({"conv.weight": half}, "here")
    assert backbone.conv.weight.dtype == torch.float32
    torch.testing.assert_close(backbone.conv.weight, half.float(), rtol=0, atol=0)


def good() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.ones(5, 3, 4, 4)}


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({}, "1 of 1 tensors are missing (conv.weight)"),
        (good() | {"module.x": torch.ones(1)}, "1 are unexpected (module.x)"),
        (good() | {f"x{i}": torch.ones(1) for i in range(5)}, "5 are unexpected (x0, x1, x2, ...)"),
        ({"conv.weight": torch.ones(5, 3, 7, 7)}, "conv.weight is torch.float32 (5, 3, 7, 7), expected"),
        ({"conv.weight": torch.ones(5, 3, 4, 4, dtype=torch.int64)}, "torch.int64"),
        ({"conv.weight": "text"}, "conv.weight is str"),
        ({"conv.weight": torch.full((5, 3, 4, 4), torch.nan)}, "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line_and_leave_the_network_alone(state, named):
    backbone = FixedBackbone()
    before = backbone.conv.weight.clone()
    with pytest.raises(ArtefactError) as caught:
        backbone.load_weights(state, "some.pth")
    assert caught.value.code == "E-WEIGHTS"
    assert named in caught.value.message
    assert "some.pth" in caught.value.message
    assert torch.equal(backbone.conv.weight, before)


def test_classifier_and_counters_are_ignored():
    state = good() | {"fc.weight": torch.ones(2), "bn.num_batches_tracked": torch.tensor(7)}
    assert torch.equal(FixedBackbone().load_weights(state, "here").conv.weight, good()["conv.weight"])


class Malicious:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a weight file ran')",))


def test_code_in_a_weight_file_is_not_run(tmp_path):
    for name, save in (("new.pth", torch.save), ("old.pth", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        save({"conv.weight": Malicious()}, tmp_path / name)
        with pytest.raises(ArtefactError, match="cannot be read as weights"):
            read_weights(tmp_path / name)


def test_other_content_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ArtefactError, match="holds list, expected tensors by name"):
        read_weights(tmp_path / "list.pth")
    torch.save({1: torch.ones(1)}, tmp_path / "numbers.pth")
    with pytest.raises(ArtefactError, match="expected tensors by name"):
        read_weights(tmp_path / "numbers.pth")


@settings(max_examples=60, deadline=None)
@given(
    start=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"]), rest=st.binary()
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_arbitrary_bytes_are_an_error_of_ours_or_tensors(tmp_path_factory, suffix, start, rest):
    path = tmp_path_factory.mktemp("weights") / f"w{suffix}"
    path.write_bytes(start + rest)
    try:
        state = read_weights(path)
    except ZslError as error:
        state = {}
        assert_one_line(error, "E-WEIGHTS")
    assert all(isinstance(key, str) for key in state)


def assert_one_line(error: ZslError, code: str) -> None:
    assert error.code == code
    assert "\n" not in str(error)


def test_a_missing_file_an_unknown_name_and_a_wrong_size_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="E-WEIGHTS-FILE: no weight file at"):
        build("resnet101", tmp_path / "absent.pth")
    with pytest.raises(UsageError, match="E-BACKBONE: no backbone 'vgg'; known are efficientnet_lite2, resnet101"):
        build("vgg")
    with pytest.raises(
        UsageError, match="E-BACKBONE-SIZE: resnet101 cannot take pictures of 300 px; it takes 224, 448"
    ):
        build("resnet101", size=300)
    with pytest.raises(UsageError, match="E-BACKBONE-SIZE"):
        rebuild("efficientnet_lite2", 224, {})


def test_names_in_the_table_are_the_classes_own():
    assert {name: kind.name for name, kind in BACKBONES.items()} == {name: name for name in BACKBONES}
