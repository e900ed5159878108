"""The folder of what al_ray prepares once and keeps between runs: models and agents' environments."""

import os
from pathlib import Path


def home() -> Path:
    """``AL_RAY_HOME``, else a cache folder of the user's; whole, as Ray's workers may be elsewhere."""
    return Path(os.environ.get("AL_RAY_HOME", "~/.cache/al_ray")).expanduser().absolute()
