"""Advantages, level 2: how much better than its like each call did.

``compare`` says which calls are alike, ``baselines`` what a return is measured from, ``scales`` in which
unit. Each is a table, and any choice fits any other; ``advantages`` applies them.
"""

from al_ray.algorithms.advantages.advantages import Advantages, Comparison, advantages
from al_ray.algorithms.advantages.baselines import BASELINES
from al_ray.algorithms.advantages.compare import COMPARE
from al_ray.algorithms.advantages.scales import SCALES

__all__ = ["BASELINES", "COMPARE", "SCALES", "Advantages", "Comparison", "advantages"]
