"""From a finished run to a bundle: ONNX graphs, the parity gate, the folder that ships. This side needs torch."""
