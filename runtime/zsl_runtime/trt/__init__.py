"""TensorRT engines: which library there is, the store of plans beside a bundle, and building them.

Nothing here imports TensorRT or CUDA before it is used, and nothing here needs torch or the onnx package.
"""
