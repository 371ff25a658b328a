"""Every method's modules survive half precision: a method added tomorrow is tested by its line in the table.

What is exported and loaded in every precision, method by method, is tests/export/test_methods.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.tiny_run import DIMS, SEEN, TinyBackbone, draw_pictures
from zsl_export.graphs import model_graph
from zsl_export.half import emulate, half_graph, halved, run_emulated
from zsl_export.parity import FLOAT16, compare
from zsl_train.methods import METHODS

CASES = [  # one preset of each method every time, the others with `make test-slow`
    pytest.param(name, preset, marks=[pytest.mark.slow] if i else [])
    for name, method in METHODS.items()
    for i, preset in enumerate(method.PRESETS)
]


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_a_method_in_half_precision_is_nearly_what_it_was(name, preset):
    torch.manual_seed(0)
    method = METHODS[name]
    trained = method.build(method.Config(**method.PRESETS[preset]), DIMS).eval()
    generator = torch.Generator().manual_seed(5)
    for part in trained.modules().values():
        for _, buffer in part.named_buffers():  # what is solved for or counted starts at zero, which hides all
            if buffer.is_floating_point() and not buffer.any():
                buffer.data.normal_(0, 0.5, generator=generator)
    backbone = TinyBackbone()
    graph = half_graph(backbone, trained)
    assert [(port.name, port.dtype) for port in graph.outputs] == [("scores", "float32"), ("features", "float32")]
    assert halved(graph)
    before = {key: tensor.clone() for key, tensor in trained.state_dict().items()}
    assert all(tensor.dtype != torch.float16 for tensor in before.values())  # the run's own modules are not touched
    with torch.inference_mode():
        scores, features = graph.module(*graph.example().values())
        wanted, reference = model_graph(backbone, trained).module(*graph.example().values())
    assert scores.dtype == features.dtype == torch.float32
    assert scores.shape == wanted.shape
    pictures = draw_pictures(np.random.default_rng(1), np.arange(len(SEEN)))
    given, lifted = run_emulated(emulate(graph), pictures, 2)
    with torch.inference_mode():
        rows = trained.embedder(backbone(torch.from_numpy(pictures)))
        whole = rows if trained.lift is None else trained.lift(rows)
    assert compare("features", rows.numpy(), given, limits=FLOAT16).passed
    assert compare("lifted", whole.numpy(), lifted, limits=FLOAT16).passed
    assert compare("features", reference.numpy(), features.numpy(), limits=FLOAT16).passed
