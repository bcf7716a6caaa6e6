"""Keys of a terminal, by name."""

from __future__ import annotations

import os
import select
import termios
import time
import tty

ESCAPE = "\x1b"
#: What comes of one key comes at once; alone, its first byte is the escape key.
AT_ONCE_S = 0.03
NAMES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    ESCAPE: "escape",
    "\x7f": "escape",
    "\x08": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x04": "q",
}
#: What is read where nothing will ever be typed again, for the terminal is gone.
GONE = "\x04"


class Keyboard:
    """Reads keys as they are pressed, without their being echoed, between `enter` and `leave`.

    `descriptor` is None where there are none.
    """

    def __init__(self, descriptor: int | None):
        self.descriptor = descriptor
        self.before: list | None = None

    def enter(self) -> None:
        if self.descriptor is not None:
            self.before = termios.tcgetattr(self.descriptor)
            tty.setcbreak(self.descriptor)

    def leave(self) -> None:
        if self.descriptor is not None and self.before is not None:
            # What was typed and not read is no command for the shell.
            termios.tcsetattr(self.descriptor, termios.TCSAFLUSH, self.before)

    def pressed(self, seconds: float) -> list[str]:
        """Wait for keys; those that were pressed, by name or as their character, none after so many seconds."""
        if self.descriptor is None:
            time.sleep(seconds)
            return []
        text = self._read(seconds)
        if text.endswith(ESCAPE):
            text += self._read(AT_ONCE_S)
        return keys(text)

    def _read(self, seconds: float) -> str:
        assert self.descriptor is not None
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return ""
        return os.read(self.descriptor, 256).decode("utf-8", "replace") or GONE


def keys(text: str) -> list[str]:
    """What was typed, key by key. Keys that are not known are left out."""
    found = []
    while text:
        name = next((known for known in sorted(NAMES, key=len, reverse=True) if text.startswith(known)), "")
        if name == ESCAPE and len(text) > 1 and text[1] in "[O":
            # Some other key: up to the letter or the tilde that ends it.
            end = next((at for at, char in enumerate(text[2:], 2) if "@" <= char <= "~"), len(text) - 1)
            text = text[end + 1 :]
        elif name:
            found.append(NAMES[name])
            text = text[len(name) :]
        else:
            found.append(text[0])
            text = text[1:]
    return found
