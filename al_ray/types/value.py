"""What the values that cross a process boundary have in common: JSON inside, and a quick way there."""

from __future__ import annotations

from typing import Any, ClassVar

JSON = Any
"""A value that ``json.dumps`` accepts."""


class Value:
    """Base of frozen, slotted dataclasses. Pickled as a call of the class with its fields.

    ``dataclasses`` gives such classes a ``__getstate__`` that looks all fields up anew for each object;
    with many small objects in a message it took half the time of the store and of its clients.
    """

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]]
    """The fields, in the order of the constructor; ``dataclasses`` makes it."""

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), tuple([getattr(self, name) for name in self.__match_args__])
