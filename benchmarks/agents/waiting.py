"""Agents that make one call each, as lean as their kind allows: what ``benchmarks.rollouts.runners`` runs."""

import json
import os
import urllib.request

QUESTION = [{"role": "user", "content": "How long?"}]


def call(task, llm):
    """With the standard library."""
    body = json.dumps({"model": llm.model, "messages": QUESTION}).encode()
    headers = {"Authorization": f"Bearer {llm.api_key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{llm.base_url}/chat/completions", body, headers)
    with urllib.request.urlopen(request) as response:
        return float(json.load(response)["choices"][0]["message"]["content"])


async def call_async(task, llm):
    """With a client of its own."""
    import aiohttp

    headers = {"Authorization": f"Bearer {llm.api_key}"}
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        body = {"model": llm.model, "messages": QUESTION}
        async with session.post(f"{llm.base_url}/chat/completions", json=body) as response:
            reply = await response.json()
    return float(reply["choices"][0]["message"]["content"])


async def call_openai(task, llm):
    """With an ``AsyncOpenAI`` of its own, as most agents have."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key, timeout=3600) as client:
        reply = await client.chat.completions.create(model=llm.model, messages=QUESTION)
    return float(reply.choices[0].message.content)


if __name__ == "__main__":
    from types import SimpleNamespace

    names = {"base_url": "OPENAI_BASE_URL", "api_key": "OPENAI_API_KEY", "model": "OPENAI_MODEL"}
    endpoint = SimpleNamespace(**{name: os.environ[variable] for name, variable in names.items()})
    print(json.dumps({"reward": call(None, endpoint)}))
