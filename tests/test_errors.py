"""What an error says of itself in one line."""

from __future__ import annotations

import pytest

from streamrec_dist.errors import summary

TASK = (
    '\x1b[36mray::Store.write()\x1b[39m (pid=7)\n  File "store.py", line 3, in write\nOSError: No space left'
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "RuntimeError"),
        ("the disk is full", "the disk is full"),
        ("The actor died.\n\n  It was killed.\n", "The actor died. ... It was killed."),
        (TASK, "OSError: No space left"),
        ("ray::Store.write()", "ray::Store.write()"),
    ],
)
def test_one_line_has_what_is_said_first_and_the_cause(text: str, said: str) -> None:
    assert summary(RuntimeError(text)) == said
