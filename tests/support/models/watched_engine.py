"""What an engine looks at of the prompts that it is given, told from within, and held there."""

from __future__ import annotations

import threading
from typing import Any

from al_ray.actors.engine.actor import Engine

_HELD_SECONDS = 60.0
"""After which a tokenizer that nobody lets go goes on by itself."""


class _Tokenizer:
    """The engine's own; tells what it is given, and waits with whatever is longer than ``hold``."""

    def __init__(self, own: Any, hold: int) -> None:
        self.longest = 0
        self.is_held = False
        self.let_go = threading.Event()
        self.went_on = False
        self._own = own
        self._hold = hold

    def __call__(self, text: str, *args: Any, **options: Any) -> Any:
        self.longest = max(self.longest, len(text))
        if len(text) > self._hold:
            self.is_held = True
            self.went_on |= not self.let_go.wait(_HELD_SECONDS)
        return self._own(text, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


class _Watch:
    def __init__(self, engine: Engine, hold: int) -> None:
        self.most_messages = 0
        self._engine = engine
        self._renderer = engine._llm.renderer
        self._own = self._renderer.tokenizer
        self._place = engine._continuation.place
        self.tokenizer = self._renderer.tokenizer = _Tokenizer(self._own, hold)
        engine._continuation.place = self._placed  # type: ignore[method-assign]

    def _placed(self, request: Any) -> Any:
        self.most_messages = max(self.most_messages, len(request.messages))
        return self._place(request)

    def end(self) -> None:
        self._renderer.tokenizer = self._own
        self._engine._continuation.place = self._place  # type: ignore[method-assign]


def watch(engine: Engine, hold: int = 10**9) -> None:
    """From now on. What is longer than ``hold`` characters is held."""
    engine._watch = _Watch(engine, hold)  # type: ignore[attr-defined]


def is_held(engine: Engine) -> bool:
    """Whether the tokenizer has come to something to be held with."""
    return bool(engine._watch.tokenizer.is_held)  # type: ignore[attr-defined]


def let_go(engine: Engine) -> bool:
    """Of what is held; whether it was held until now, and did not go on by itself."""
    tokenizer = engine._watch.tokenizer  # type: ignore[attr-defined]
    tokenizer.let_go.set()
    return not tokenizer.went_on


def unwatch(engine: Engine) -> tuple[int, int]:
    """Ends it. The length of the longest text that was tokenised, and the most messages that were read."""
    watched = engine._watch  # type: ignore[attr-defined]
    watched.end()
    return watched.tokenizer.longest, watched.most_messages
