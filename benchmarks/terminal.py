"""A real terminal of a given size, which a program draws on and which can be looked at: tmux, on a private socket."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

#: What a program sees of its terminal, whatever the one is from which this is started.
VARIABLES = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "COLORTERM": "", "NO_COLOR": "", "COLUMNS": "", "LINES": ""}
LOOK_S = 0.1


def has_tmux() -> bool:
    return shutil.which("tmux") is not None


class Terminal:
    """Runs a command in a terminal while the block runs; afterwards the terminal is closed."""

    def __init__(
        self,
        command: Sequence[str],
        width: int,
        height: int,
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ):
        self.command, self.width, self.height, self.cwd = command, width, height, cwd
        self.variables = {**VARIABLES, **(variables or {})}
        # The path of a socket must not be long.
        self.folder = tempfile.mkdtemp(prefix="tmux-")
        self.code = Path(self.folder) / "code"

    def __enter__(self) -> Terminal:
        given = [f"{name}={value}" for name, value in self.variables.items() if value]
        unset = [part for name, value in self.variables.items() if not value for part in ("-u", name)]
        # tmux does not always learn how a command has ended, so a shell does, which outlives an interrupt.
        shell = ["sh", "-c", f'trap : INT; "$@"; echo $? >{self.code}', "sh", *self.command]
        command = shlex.join(["env", *unset, *given, *shell])
        self._tmux(
            *(
                "start-server",
                ";",
                "set",
                "-g",
                "status",
                "off",
                ";",
                "set",
                "-g",
                "remain-on-exit",
                "on",
                ";",
            ),
            *("set", "-g", "default-terminal", "screen-256color", ";", "new-session", "-d"),
            *("-x", str(self.width), "-y", str(self.height), "-c", str(self.cwd or Path.cwd()), command),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tmux("kill-server")
        shutil.rmtree(self.folder, ignore_errors=True)

    def text(self) -> str:
        """What is on the screen, a line each, without what is empty at their ends."""
        lines = self._tmux("capture-pane", "-p").split("\n")[: self.height]
        return "".join(f"{line.rstrip()}\n" for line in lines)

    def styled(self) -> str:
        """The same with the escapes of its styles."""
        return self._tmux("capture-pane", "-p", "-e")

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: q, Enter, Escape, Up, C-c."""
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def asked(self, name: str) -> str:
        """A format variable of tmux, such as alternate_on, cursor_flag, pane_tty."""
        return self._tmux("display-message", "-p", f"#{{{name}}}").strip()

    def wait_for(self, found: Callable[[str], bool], seconds: float = 30.0) -> str:
        """The screen as soon as it is what is looked for, or as it is after so many seconds."""
        give_up = time.monotonic() + seconds
        while not found(text := self.text()) and time.monotonic() < give_up:
            time.sleep(LOOK_S)
        return text

    @property
    def pid(self) -> int:
        """The process of the command."""
        shell = self.asked("pane_pid")
        return int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0])

    def exit_code(self, seconds: float = 30.0) -> int:
        """That of the command, once it has ended. Raises TimeoutError."""
        give_up = time.monotonic() + seconds
        while not (self.code.exists() and (told := self.code.read_text())):
            if time.monotonic() > give_up:
                raise TimeoutError(f"{' '.join(self.command)} has not ended: {self.text()}")
            time.sleep(LOOK_S)
        return int(told)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-f", os.devnull, "-S", f"{self.folder}/socket", *arguments]
        variables = {name: value for name, value in os.environ.items() if name != "TMUX"}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"tmux {arguments[0]}: {done.stderr.strip()}")
        return done.stdout
