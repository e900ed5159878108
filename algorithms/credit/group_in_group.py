"""Group-in-group credit (GiGPO): calls that saw the same are compared, beside whole episodes."""

from __future__ import annotations

from collections.abc import Sequence

from al_ray.algorithms.credit.identical import identical
from al_ray.algorithms.credit.layer import Layer
from al_ray.algorithms.credit.reward_to_go import reward_to_go
from al_ray.types import Trajectory


def group_in_group(group: Sequence[Trajectory], discount: float, weight: float) -> Sequence[Layer]:
    """``A = A^E + weight * A^S`` (arXiv 2505.10978, equations 5 to 8).

    ``A^E`` compares the episodes' returns. ``A^S`` compares the rewards to go of those calls of the group
    whose *anchor state* is the same, which for an agent is what it observes: the agent's name and the
    prompt, token for token. A call that nobody else's observation equals has no part in ``A^S``, which is
    measured from a mean (equation 7) also where the stage measures episodes from nothing.
    """
    ahead = [reward_to_go(trajectory, discount) for trajectory in group]
    anchors = [[(t.agent, tuple(t.prompt_ids)) for t in trajectory.transitions] for trajectory in group]
    episodes = [identical(trajectory) for trajectory in group]
    keys = [[(anchor,) for anchor in row] for row in anchors]
    return [Layer(episodes), Layer(ahead, keys, widen=False, weight=weight, baseline="mean")]
