"""The Gaussian head of a training: closed form, choice on folds, and the modules that ship."""
