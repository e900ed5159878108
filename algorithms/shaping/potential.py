"""Potential-based shaping: intermediate rewards that leave the best policy what it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

from al_ray.types import Trajectory


@dataclass(frozen=True, slots=True)
class Potential:
    """Makes intermediate rewards the steps of a potential: a call is given ``discount * P' - P`` (Ng, Harada
    and Russell, Policy invariance under reward transformations, ICML 1999, equation 2).

    ``P`` is the sum of what the calls before it earned by their signals, ``P'`` that with its own, and after
    the last call 0. So what a call is given for a signal, the calls after it pay back: from whichever call
    on, the discounted return differs by that call's ``P`` alone, which it had no part in.

    Of a call's choices each has the whole step, for all of them have what is paid back.
    """

    discount: float

    def __call__(self, trajectory: Trajectory) -> Trajectory:
        """The return of the episode as a whole loses its intermediate rewards: it begins at potential 0, and
        ends there."""
        calls = [list(same) for _, same in groupby(trajectory.transitions, key=lambda t: t.of_call)]
        transitions = []
        before = 0.0
        for number, choices in enumerate(calls):
            after = before + sum(t.intermediate for t in choices)
            step = self.discount * (0.0 if number == len(calls) - 1 else after) - before
            transitions += [
                replace(t, reward=t.reward - t.intermediate, call_reward=t.call_reward + step)
                for t in choices
            ]
            before = after
        return replace(
            trajectory, transitions=transitions, reward=trajectory.reward - trajectory.intermediate
        )
