"""A mapping that forgets."""

from __future__ import annotations

from al_ray.actors.recent import Recent


def test_only_the_keys_set_last_are_remembered() -> None:
    recent: Recent[str, int] = Recent(2)
    recent["a"] = 1
    recent["b"] = 2
    recent["a"] = 3
    recent["c"] = 4
    assert dict(recent) == {"a": 3, "c": 4}
