"""What an agent's rewards may name: its attempt's calls, and the choices that these have."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.support.houses.at_hand import open_at_hand
from tests.support.models.fake_engine import FakeEngine


@pytest.mark.parametrize("index", ["2", "99", "-1", "01", "x", ""])
async def test_a_reward_is_for_a_choice_that_there_is(tmp_path: Path, index: str) -> None:
    """Who counts from 1 would give every choice the reward of another."""
    async with open_at_hand(tmp_path, FakeEngine("a")) as house:
        attempt = await house.attempt()
        call = await house.ask(attempt, n=2)

        async def rewarded(call_id: str) -> tuple[int, str]:
            body = orjson.dumps({"value": 1, "call": call_id})
            status, answer = await house.post(body, attempt.key, "/al_ray/rewards")
            return status, answer.get("error", {}).get("message", answer.get("id"))

        for there in (call.id, f"{call.id}/0", f"{call.id}/1"):
            assert (await rewarded(there))[0] == 200
        told = f"call: {call.id!r} has no choice {index!r}: it has 2, of which the first is 0"
        assert await rewarded(f"{call.id}/{index}") == (400, told)
        _, reward = await rewarded(call.id)
        assert await rewarded(reward) == (400, f"call: this attempt has made no call {reward!r}")
