"""The ``openai`` client of an agent's endpoint."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

if TYPE_CHECKING:
    from al_ray.types import Endpoint

TLS = ssl.create_default_context()
"""Reading the certificates takes 30 ms, of every other task of this process too: once will do."""


def open_client(llm: Endpoint) -> AsyncOpenAI:
    """To be closed. A failed call is not repeated here: whoever runs the agent does that."""
    return AsyncOpenAI(
        base_url=llm.base_url,
        api_key=llm.api_key,
        timeout=600,
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(verify=TLS),
    )
