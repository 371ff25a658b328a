"""Readers of data folders and archives, word vectors, the feature store, and the drawn data set."""
