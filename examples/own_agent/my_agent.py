"""An agent of one's own: any code that calls the model through an OpenAI client."""

from openai import AsyncOpenAI


async def solve(task, llm):
    async with AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key) as client:
        question = [{"role": "user", "content": task["question"]}]
        reply = await client.chat.completions.create(model=llm.model, messages=question)
    return reply.choices[0].message.content


def score(task, answer):
    """The reward: right, and not a word too many."""
    return float(task["answer"] in answer) - len(answer) / 1000
