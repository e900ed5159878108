"""What crosses a process boundary arrives as it left, by the quick way."""

from __future__ import annotations

import dataclasses
import pickle
import pickletools

from al_ray import types
from al_ray.types import Attempt, Claim, RolloutRequest, Span, SpanKind, Task
from al_ray.types.value import Value


def test_every_word_is_pickled_the_quick_way() -> None:
    words = [word for word in vars(types).values() if dataclasses.is_dataclass(word)]
    assert len(words) > 20
    assert [word for word in words if not issubclass(word, Value)] == []


def test_a_value_within_a_value_arrives_as_it_left() -> None:
    request = RolloutRequest("r", "b", "g", Task("t", {"question": [1, None]}))
    claim = Claim(request, Attempt("r", 2, "key", resources={"prompt": 3}), 30.0)
    span = Span("s", "r", 2, SpanKind.CALL, "chat", 1.0, 2.0, {"ids": [1, 2]}, sequence=7)
    sent = pickle.dumps((claim, span))
    assert pickle.loads(sent) == (claim, span)
    assert not any(operation.name == "BUILD" for operation, _, _ in pickletools.genops(sent))
