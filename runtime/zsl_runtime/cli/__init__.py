"""The commands `zsl-infer`, `zsl-eval`, `zsl-classes` and `zsl-doctor`."""
