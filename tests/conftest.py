"""Settings that hold for all tests."""

import os

# The workers of pytest have a core each: threads of small matrices cost ten times what they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A worker meets the formulas of all derivations, which SymPy's 1000 entries do not hold: a tenth of the time of a run.
os.environ.setdefault("SYMPY_CACHE_SIZE", "20000")
