"""From items to labels: reading ahead, scoring, the Classifier, the cascade, results on disk."""
