"""Scores of generalized zero-shot classifiers, folds of validation classes, and baselines in closed form."""
