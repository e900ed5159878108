"""Measured credit: what each call of a recorded rollout was worth, by playing on from there again and again.

The state before a call has a value, the mean return of rollouts that begin with the calls before it as they
were recorded (``al_ray.types.Replay``). A call's measured advantage is the difference of the values after and
before it (VinePPO, arXiv 2410.01679, section 4, for agents in place of a text). ``values`` asks and sums up,
``credits`` and ``agreement`` compare that with what credit assignment says, ``report`` tells it.
"""
