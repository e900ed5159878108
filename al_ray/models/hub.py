"""Models of the Hugging Face hub: the files that engines and learners load, brought into the hub's cache, and
found there again while the hub is away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from al_ray.models import tensors

logger = logging.getLogger(__name__)

_WANTED: Final = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
_SECONDS: Final = 5.0


class HubError(Exception):
    """Why a model cannot be had from the hub, and what helps."""


def download(name: str, tell: Callable[[str], None]) -> Path:
    """The hub's snapshot, or the one in its cache where the hub does not give it. Raises ``HubError``."""
    import httpx2  # what huggingface_hub speaks HTTP with

    if (found := find(name)) is not None:
        return found
    tell(f"downloading {name} from the Hugging Face hub")
    try:
        return _snapshot(name, cached=False)
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # the last is hf_xet's
        raise HubError(f"cannot be downloaded from the Hugging Face hub: {_why(error)}") from error


def find(name: str) -> Path | None:
    """None where the hub has the model, else the snapshot in its cache. Raises ``HubError`` if there is
    neither."""
    import httpx2
    from huggingface_hub import HfApi

    try:
        # Only this takes a timeout, and it does not retry.
        HfApi().model_info(name, timeout=_SECONDS)
    except (httpx2.HTTPError, OSError) as error:
        logger.info("the Hugging Face hub does not give %s: %s", name, error)
        try:
            return cached(name)
        except OSError:
            cure = f"no such folder, and the Hugging Face hub does not give it ({_why(error)}): name a "
            raise HubError(f"{cure}folder that holds the model") from error
    return None


def cached(name: str) -> Path:
    """The snapshot in the hub's cache; ``OSError`` if it is not there, or not whole."""
    return _snapshot(name, cached=True)


def _snapshot(name: str, *, cached: bool) -> Path:
    """What is wanted is said both times: a snapshot is whole if it holds so much."""
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name, allow_patterns=_WANTED, ignore_patterns=[tensors.TWICE], local_files_only=cached
        )
    )


def _why(error: Exception) -> str:
    """In a line; the hub's own words fill a paragraph."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "it is gated: ask for access on its page there, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "it has none of that name, or a private one that needs `hf auth login`"
    return " ".join(f"{type(error).__name__}: {error}".split())
