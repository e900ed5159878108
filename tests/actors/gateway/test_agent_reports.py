"""What an agent's rewards may name, its attempt's calls and their choices, and how much it may tell."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from al_ray.actors.gateway import agent_reports
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


async def test_an_attempt_that_tells_without_end_is_stopped_and_may_still_be_rewarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver reads what a group has told as a whole. Events that say little count for what they take."""
    monkeypatch.setattr(agent_reports, "MAX_ATTEMPT_BYTES", 8 * agent_reports.LEAST_SPAN_BYTES)
    large, small = {"page": "x" * 4 * agent_reports.LEAST_SPAN_BYTES}, {}
    async with open_at_hand(tmp_path, FakeEngine("a")) as house:
        attempt, other = await house.attempt(), await house.attempt()

        async def told(attributes: dict[str, str]) -> int:
            body = orjson.dumps({"name": "seen", "attributes": attributes})
            return (await house.post(body, attempt.key, "/al_ray/events"))[0]

        assert [await told(each) for each in (large, large, *[small] * 4)] == [200, 400, 200, 200, 200, 400]
        body = orjson.dumps({"value": 1})
        assert (await house.post(body, attempt.key, "/al_ray/rewards"))[0] == 200
        assert (await house.post(body, other.key, "/al_ray/rewards"))[0] == 200
