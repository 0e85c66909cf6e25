"""Settings that hold for all tests."""

import os

# The workers of pytest have a core each: threads of small matrices cost ten times what they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")
