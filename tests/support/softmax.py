"""Softmax regression as a textbook has it: the yardstick of `zsl_runtime.head.head`."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax as scipy_log_softmax


def naive_fit(x, labels, n_rows, settings, rng):
    """The same training in float64, written from the formulas: full softmax, textbook Adam, one row of code a line."""
    x = x.astype(np.float64)
    weight = (rng.standard_normal((n_rows, x.shape[1]), dtype=np.float32) * np.float32(settings.init_std)).astype(float)
    bias = np.zeros(n_rows)
    state = {"w": [0.0, 0.0], "b": [0.0, 0.0]}
    step = 0
    for _ in range(settings.epochs):
        order = rng.permutation(len(x))
        batches = -(-len(x) // settings.batch_size)
        sizes = [len(x) // batches + (i < len(x) % batches) for i in range(batches)]  # equal, but for one row
        for i, size in enumerate(sizes):
            chosen = order[sum(sizes[:i]) : sum(sizes[:i]) + size]
            logits = x[chosen] @ weight.T + bias
            p = np.exp(scipy_log_softmax(logits, axis=1))
            p[np.arange(len(chosen)), labels[chosen]] -= 1
            p = p / len(chosen)
            step += 1
            for key, values, grad in (("w", weight, p.T @ x[chosen]), ("b", bias, p.sum(axis=0))):
                m, v = state[key]
                m = settings.beta1 * m + (1 - settings.beta1) * grad
                v = settings.beta2 * v + (1 - settings.beta2) * grad**2
                state[key] = [m, v]
                m_hat, v_hat = m / (1 - settings.beta1**step), v / (1 - settings.beta2**step)
                values[:] = values - settings.learning_rate * m_hat / (np.sqrt(v_hat) + 1e-8)
    return weight, bias
