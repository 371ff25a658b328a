"""Training of generalized zero-shot classifiers: data, backbones, methods, the run folder."""
