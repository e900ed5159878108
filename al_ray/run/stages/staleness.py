"""How old the weights may be that sampled what is trained: asserted, though ``Admission`` sees to it."""

from __future__ import annotations

from al_ray.algorithms.named import Groups
from al_ray.errors import AlRayError


def require_fresh(kept: Groups, version: int, bound: int, place: str) -> None:
    """Raises ``AlRayError`` for a call that is to be trained at policy ``version``, and of which a token is
    more than ``bound`` versions older. ``place`` is the stage's, in the recipe."""
    for episode in (episode for group in kept for episode in group):
        for call in episode.transitions:
            if call.trained and version - call.policy_version > bound:
                raise AlRayError(
                    f"rollout {episode.rollout_id}, call {call.id}: sampled by policy version "
                    f"{call.policy_version}, to be trained at {version}, but {place}.staleness is {bound}. "
                    "The batch was not trained. This is a mistake of al_ray's: report it, with the store"
                )
