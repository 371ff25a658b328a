"""How many pictures a second does the network alone take, on ready arrays, against what else one would run it with?

The contenders of engine_contenders.py, in turns. `make bench-cpu` measures the same for longer, and keeps it.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest
from engine_contenders import BATCH, CONTENDERS, PAUSE, SIDES, NotHereError, check, make_network, opened
from turns import Contender


# The compiler of torch uses what torch itself deprecates.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("network", SIDES)
def bench_engine(measure_in_turns, network, tmp_path):
    made = make_network(network, tmp_path)
    found, missing = {}, {}
    with ExitStack() as stack:
        for name in CONTENDERS:
            try:
                call = stack.enter_context(opened(made, name))
            except NotHereError as why:
                missing[name] = str(why)
                continue
            found[name] = Contender(call, partial(check, made, name))
        measure_in_turns(
            found,
            things=BATCH,
            unit="pictures",
            against="torch eager",
            pause=PAUSE,
            settle=True,
            named=lambda name: f"bench_engine[{network}-{name}]",
            missing=missing,
        )
