"""The script that runs a Python agent in a process of its own (``__main__``).

In a folder of its own because Python puts a script's folder first on its path, and al_ray has modules
named like those of the standard library.
"""

from pathlib import Path
from typing import Final

SCRIPT: Final = str(Path(__file__).parent)
"""What to give to an interpreter, before the script's own argument."""
