"""What the gateway does with each field and each type of each API: one table, a file for each API.

Requests are read by it, ``docs/gateway-fields.md`` is written from it, and a test compares it with the types
of the installed SDKs and with what the gateway does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from al_ray.types import JSON


class Does(StrEnum):
    """What the gateway does with a field, or with a thing of a type."""

    TAKEN = "taken"
    IGNORED = "ignored"
    """It does not change what is meant."""
    LEFT_OUT = "left out"
    """A tool that is not offered; the record says so."""
    REFUSED = "refused"
    """Ignored, it would change what is meant."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """Of one field or type."""

    does: Does
    told: str
    """How, why without effect, or what to do instead."""
    harmless: tuple[JSON, ...] = ()
    """Values of a refused field that mean no more than its absence."""
    reads: tuple[str, ...] = ()
    """Of a type that is taken: its fields that count."""
    ignores: tuple[str, ...] = ()
    """And the others."""


Fields = Mapping[str, Treatment]
Api = Mapping[str, Fields]
"""Its parts, each by the name that it has in the API: ``request`` has the fields of the body, the others the
types of what may stand there and, after a dot, the fields of those that are taken."""


def taken(told: str, reads: str = "", ignores: str = "") -> Treatment:
    return Treatment(Does.TAKEN, told, (), tuple(reads.split()), tuple(ignores.split()))


def ignored(told: str) -> Treatment:
    return Treatment(Does.IGNORED, told)


def left_out(told: str = "its work is done by the API's own servers") -> Treatment:
    return Treatment(Does.LEFT_OUT, told)


def refused(told: str, *harmless: JSON) -> Treatment:
    return Treatment(Does.REFUSED, told, (None, *harmless))


NOT_TEXT = refused("the trained model reads text alone: put into text what it says, or ask a hosted model")
SAMPLING = ignored("how the trained model is sampled is the recipe's to say")
CACHE = ignored("every prompt is looked for in the engine's cache")
NAMES_SOMEBODY = ignored("the key says whose call it is")
KEPT = ignored("every call is kept with its rollout")
ONE_SERVICE = ignored("there is one tier of service")
NO_DIAL = ignored("the model thinks as its chat template has it")
NOBODY_CENSORS = ignored("nothing is moderated")
