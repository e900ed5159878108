"""Each part killed and stopped at each moment of a real run, one after the other: how long until it goes on.

    python -m benchmarks.faults.moments [--deeds killed stopped] [--parts engine ...] [--vllm]

A real ``al-ray train``, of a tiny Llama in the learner; the engines have no model, unless ``--vllm``. Parts
wait at each moment until the fault is laid (``tests/support/runs/turnstiles.py``), so that none is missed.
Prints a line for each fault, with the seconds until its part is there anew and until the run told its next
step, checkpoint or evaluation (a dash: nobody waits for it, or not in 300 s); at last what is wrong with the
records or the weights, which must be those that the same rollouts make undisturbed, bit for bit. Ends with 1
if anything is.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.conftest import write_tiny_model
from tests.support.runs.moments import ACTORS, CORE, DRIVER, STARTS, Fault, Laid, Trial

LIVES: Final = (("idle", "rollouts", "weights"), ("update", "checkpoint", "evaluation"))
"""The moments of a life, which ends with its driver."""
_STARTING: Final = [Fault(moment, "killed", [moment.partition(" ")[0]]) for moment in STARTS]
"""At a life's begin. What is stopped there is given up after minutes, as it may be loading a model."""
_PATIENCE: Final = 300.0
"""Seconds within which a run must have gone on."""


def faults(deed: str, moments: Sequence[str], parts: Sequence[str]) -> Iterator[Fault]:
    """Step by step, so that each has a step of its own."""
    for part in parts:
        if (part, deed) == ("door", "stopped"):  # which nobody misses until its gateway is replaced
            continue
        for moment in moments:
            of_learner = (moment, part) == ("weights", "learner")
            yield Fault("publish" if of_learner else moment, deed, [part])


def tell(laid: Laid) -> None:
    fault = laid.fault
    (part,) = fault.parts
    anew, onward = laid.anew.get(part), laid.onward
    print(
        f"{fault.moment:<14} {part:<12} {fault.deed:<8} anew {_seconds(anew)}, onward {_seconds(onward)}, "
        f"load {os.getloadavg()[0]:.0f}",
        flush=True,
    )


def _seconds(taken: float | None) -> str:
    return "        -" if taken is None else f"{taken:7.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deeds", nargs="+", default=["killed", "stopped"], choices=["killed", "stopped"])
    parser.add_argument("--parts", nargs="+", default=ACTORS, choices=[*ACTORS, CORE])
    parser.add_argument("--vllm", action="store_true", help="engines have the model, too")
    arguments = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        write_tiny_model(folder / "model")
        variables = {"AL_RAY_TEST_VLLM": "1"} if arguments.vllm else {}
        lives = [(deed, moments) for deed in arguments.deeds for moments in LIVES]
        laid = sum(len(moments) for _, moments in lives) * len(arguments.parts)
        # A step or two for each, and some more while parts come.
        trial = Trial(folder, folder / "model", 3 * laid + 10, **variables)
        for number, (deed, moments) in enumerate(lives):
            starting = _STARTING if lives[number] == ("killed", LIVES[0]) else ()
            of_life = [*starting, *faults(deed, moments, arguments.parts)]
            if ends := number < len(lives) - 1:
                of_life.append(Fault(moments[-1], "killed", [DRIVER]))
            code, printed = trial.live(of_life, _PATIENCE, tell)
            if bool(code) != ends:
                wrong.append(f"the run ended with {code}:\n{printed[-3000:]}")
                break
        else:
            wrong += trial.mistakes()
    for told in wrong:
        print(told, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
