"""What an agent prints: all of it while it is short, its two ends when it is long."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.actors.agent.printed import HEAD_BYTES, TAIL_BYTES, KeptText, LastLine

GAP = re.compile(r"\n\[\.\.\. (\d+) bytes left out \.\.\.\]\n")


@given(st.lists(st.integers(0, 40_000), max_size=12))
@settings(max_examples=100, deadline=None)
def test_nothing_is_lost_but_what_is_counted(sizes: list[int]) -> None:
    """However it arrives in pieces."""
    kept, whole = KeptText(), ""
    for index, size in enumerate(sizes):
        piece = f"{index:x}" * size
        kept.write(piece.encode())
        whole += piece
    found = GAP.search(kept.text)
    if len(whole) <= HEAD_BYTES + TAIL_BYTES:
        assert kept.text == whole
    else:
        assert found is not None
        head, tail = kept.text[: found.start()], kept.text[found.end() :]
        assert (head, tail) == (whole[:HEAD_BYTES], whole[-TAIL_BYTES:])
        assert int(found[1]) == len(whole) - HEAD_BYTES - TAIL_BYTES


@given(st.binary(max_size=60))
def test_whatever_bytes_are_printed_what_is_kept_can_be_stored(data: bytes) -> None:
    kept = KeptText()
    kept.write(data)
    assert "\x00" not in kept.text
    assert kept.text.encode().decode() == kept.text


def test_the_last_line_is_the_last_that_is_not_blank() -> None:
    for text, last in (("a\nb\n", "b"), ("a\n  b \n\n \n", "b"), ("one", "one"), ("", "")):
        kept = KeptText()
        kept.write(text.encode())
        assert kept.last_line == last


@given(st.lists(st.sampled_from(["a", "bb", " ", "\n", "\n\n", "c\nd"]), max_size=12))
def test_the_last_line_is_kept_whole_however_it_arrives(pieces: list[str]) -> None:
    kept = LastLine(KeptText(), max_bytes=100)
    for piece in pieces:
        kept.write(piece.encode())
    lines = [line for line in "".join(pieces).split("\n") if line.strip()]
    last = lines[-1] if lines else ""
    assert kept.get() == (last.encode(), len(last))


def test_of_a_line_that_is_too_long_the_beginning_is_kept_and_the_length_known() -> None:
    kept = LastLine(KeptText(), max_bytes=3)
    kept.write(b"12\n123")
    kept.write(b"45")
    assert kept.get() == (b"123", 5)
