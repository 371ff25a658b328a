"""The commands `zsl-infer`, `zsl-classes` and `zsl-doctor`."""
