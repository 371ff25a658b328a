"""Why a label: what the model reads of each attribute in a picture, and what speaks for the answer over its rival."""

from zsl_runtime.explaining.contributions import Pair, pair_of, split
from zsl_runtime.explaining.explanation import Explanation, Spoken
from zsl_runtime.head.readout import Readout

__all__ = ["Explanation", "Pair", "Readout", "Spoken", "pair_of", "split"]
