"""Which weights answer agents, and from when on. (With real engines and learners: ``test_driver``.)"""

from __future__ import annotations

from typing import Any

import pytest

from al_ray.run.policy import Policy


class Parts:
    """Engines, gateways and learners of a run that goes on at ``version``; notes what is asked of them."""

    pushes_weights = adapts = False

    def __init__(self, version: int) -> None:
        self.version = version
        self.asked: list[str] = []

    def policy_version(self) -> int:
        return self.version

    def publish(self, version: int) -> str:
        return f"weights {version}"

    async def update(self, weights: str) -> None:
        self.asked.append(f"load {weights}")

    def admitted(self) -> list[str]:
        return ["engine"]

    async def admit(self, engines: list[str]) -> None:
        self.asked.append(f"admit {engines}")


@pytest.mark.parametrize(
    ("version", "asked"), [(0, ["admit ['engine']"]), (3, ["load weights 3", "admit ['engine']"])]
)
async def test_engines_answer_no_call_before_they_have_the_weights_that_the_run_goes_on_with(
    version: int, asked: list[str]
) -> None:
    """Rollouts that a killed run had queued are claimed as soon as runners are there: their calls wait."""
    parts: Any = Parts(version)
    policy = Policy(parts, parts, parts)
    await policy.start()
    assert parts.asked == []
    await policy.serve()
    assert parts.asked == asked and policy.served_version == version
    await policy.serve()
    assert parts.asked == asked, "nothing has changed"
    parts.version += 1
    await policy.serve()
    assert parts.asked[len(asked) :] == [f"load weights {version + 1}", "admit ['engine']"]
    await policy.stop()


async def test_a_policy_that_does_not_learn_answers_with_what_its_engines_were_started_with() -> None:
    parts: Any = Parts(0)
    policy = Policy(parts, parts, None)
    await policy.start()
    await policy.serve()
    assert (parts.asked, policy.served_version) == (["admit ['engine']"], 0)
    await policy.stop()
