"""What each Python that a test starts begins with, Ray's workers and vLLM's core among them: most of their
computing is the importing of modules, and a third of that went into looking for garbage in what imports
make, which stays; at the end once more, of no use to anybody.

Nor do they find scikit-learn, which is here for dense retrieval alone: where transformers finds it, each
learner and each of an engine's two processes imports it, SciPy and pandas, for half a second and 100 MiB.

In ``PYTHONPATH`` by ``tests/conftest.py`` and ``tests/processes.py``. Nothing else may be done here: what is
tested is what a user starts.
"""

import atexit
import gc
import sys

gc.set_threshold(50_000, 50, 100)
atexit.register(gc.freeze)
sys.modules["sklearn"] = None  # type: ignore[assignment]  # as importlib has it for what cannot be imported
