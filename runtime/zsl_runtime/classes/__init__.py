"""Classes come and go: add, teach, remove, undo, refit, and what newcomers will be mixed up with."""
