"""One idea a file: plain functions of tensors."""
