"""One training run: prepare, select, train, make the head, score, save."""
