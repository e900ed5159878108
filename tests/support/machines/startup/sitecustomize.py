"""What each Python that a test starts begins with, Ray's workers and vLLM's core among them: most of their
computing is the importing of modules, and a third of that went into looking for garbage in what imports
make, which stays; at the end once more, of no use to anybody.

In ``PYTHONPATH`` by ``tests/conftest.py`` and ``tests/support/machines/processes.py``. Nothing else may be
done here: what is tested is what a user starts.
"""

import atexit
import gc
import sys

gc.set_threshold(50_000, 50, 100)
atexit.register(gc.freeze)
if any("multiprocessing.spawn" in argument for argument in sys.orig_argv):
    # vLLM's core has neither where nothing but al_ray is installed; here they are for retrieval, and
    # transformers would take them along, for more than a second (``al_ray.models.imports``).
    sys.modules.update(dict.fromkeys(("sklearn", "scipy")))
