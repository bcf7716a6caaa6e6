"""Ray on a node: started, ended, looked at. Runs there, with nothing of this project installed.

The processes of a cluster carry its id in their environment, and those of a node the node's name too: what has
other marks is never touched, so that clusters of several people can share a machine. A Ray worker that takes a title
writes it over its environment: then the files that it writes in the node's private folder tell whose it is.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from typing import Any

#: Every process of a cluster inherits these variables: the cluster's id, and on a node the node's name.
MARK, NODE_MARK = "STREAMREC_CLUSTER", "STREAMREC_NODE"
#: Stand for what only the node knows, in a command and its variables.
FOLDER, STORE = "{folder}", "{store}"
#: In the node's folder: what it gives to the cluster, and what Ray says when it starts.
SHARE, LOG = "share.json", "start.log"
GRACE_SECONDS, END_SECONDS = 4.0, 30.0
OBJECT_STORE_BYTES = 2 * 2**30


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do what the job says; `error` in the answer tells why that was impossible, `left` what is there even so."""
    if not os.path.isdir("/proc/self"):
        return {"error": "this machine has no /proc: only Linux machines can be nodes", "left": []}
    try:
        return {"start": start, "end": end, "look": look}[job["do"]](job)
    except (OSError, RuntimeError) as error:
        folder = folder_of(job)
        return {"error": str(error), "left": [*marked(job), *([folder] if is_own(folder) else [])]}


def look(job: dict[str, Any]) -> dict[str, Any]:
    """Which processes of the node run, whether its raylet is among them, and what that gives to the cluster."""
    pids = marked(job)
    runs = any(name_of(pid) == "raylet" for pid in pids)
    return {"pids": pids, "runs": runs, "share": share_of(job) if runs else {}}


def start(job: dict[str, Any]) -> dict[str, Any]:
    """Start Ray, unless it runs. What an earlier start has left is removed first; a failed one leaves nothing.

    `anew`: what runs has been given up by the head, and will not be taken back.
    """
    found = look(job)
    if found["runs"] and not job["anew"]:
        return {"state": "running", **found}
    left = end(job)["left"]
    if left:
        raise RuntimeError(f"processes {left} of an earlier start cannot be ended")
    folder = folder_of(job)
    os.mkdir(folder, 0o700)
    try:
        write_private(os.path.join(folder, "token"), job["token"])
        write_private(os.path.join(folder, SHARE), json.dumps(job["share"]))
        run(job, folder)
        found = look(job)
        if not found["runs"]:
            log = os.path.join(folder, LOG)
            raise RuntimeError(f"Ray ended at once; the end of its log:\n{tail(log)}")
    except BaseException:
        end(job)
        raise
    return {"state": "started", **found}


def run(job: dict[str, Any], folder: str) -> None:
    """Run the command of a job until it returns. Raises RuntimeError when it fails, or takes too long."""
    known = {FOLDER: folder, STORE: str(store_bytes())}
    environment = {name: value for name, value in os.environ.items() if name not in job["without"]}
    environment.update({name: filled(value, known) for name, value in job["variables"].items()})
    log = os.path.join(folder, LOG)
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                [filled(part, known) for part in job["command"]],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # The end of the ssh session must not reach the cluster.
                start_new_session=True,
            )
            code = process.wait(timeout=job["seconds"])
        except subprocess.TimeoutExpired:
            raise RuntimeError(
                f"waited {job['seconds']} s for Ray to start; the end of its log:\n{tail(log)}"
            ) from None
    if code:
        raise RuntimeError(f"Ray did not start (exit code {code}); the end of its log:\n{tail(log)}")


def end(job: dict[str, Any]) -> dict[str, Any]:
    """End the node's processes, politely first, and remove its folder; which ended, and which are still there."""
    ended: set[int] = set()
    give_up, kill_from = time.monotonic() + END_SECONDS, time.monotonic() + GRACE_SECONDS
    while (left := marked(job)) and time.monotonic() < give_up:
        kill = time.monotonic() >= kill_from
        for pid in left:
            # Asked once: gcs_server and some workers take no notice, and are killed in the end.
            if kill or pid not in ended:
                send(pid, signal.SIGKILL if kill else signal.SIGTERM)
        ended.update(left)
        time.sleep(0.1)
    folder = folder_of(job)
    if not left and os.path.lexists(folder):
        # Anybody can make names in /tmp.
        if not is_own(folder):
            raise RuntimeError(f"{folder} was made by somebody else; it is left alone")
        shutil.rmtree(folder)
    return {"ended": sorted(ended), "left": left}


def marked(job: dict[str, Any]) -> list[int]:
    """Living processes of the node, and what descends from them, never this one or those it comes from."""
    # Processes tell the real paths of what they write.
    folder = os.path.realpath(folder_of(job))
    wanted = {f"{MARK}={job['cluster']}".encode(), f"{NODE_MARK}={job['node']}".encode()}
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = parent_of(int(entry))
                if wanted <= environment_of(int(entry)) or writes_in(int(entry), folder):
                    found.add(int(entry))
            except OSError:
                continue  # it has ended, or belongs to another user
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    spared, pid = set(), os.getpid()
    while pid > 0 and pid not in spared:
        spared.add(pid)
        pid = parents.get(pid, 0)
    return sorted(pid for pid in found - spared if state_of(pid) not in ("", "Z", "X"))


def environment_of(pid: int) -> set[bytes]:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return set(file.read().split(b"\0"))


def writes_in(pid: int, folder: str) -> bool:
    """Whether a process has a file below the folder, a real path, open for writing, deleted ones too.

    Who reads a log is no part of the cluster. Raises OSError when the process has ended or is another user's.
    """
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{number}").startswith(folder + "/"):
                with open(f"/proc/{pid}/fdinfo/{number}", encoding="utf-8") as file:
                    flags = next(line.split()[1] for line in file if line.startswith("flags:"))
                if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
        except FileNotFoundError:
            continue  # closed in between
    return False


def stat_of(pid: int) -> list[str]:
    """Name, state and parent of a process. Raises OSError when it has ended."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        text = file.read()
    first, last = text.index("("), text.rindex(")")
    return [text[first + 1 : last], *text[last + 2 :].split()[:2]]


def parent_of(pid: int) -> int:
    return int(stat_of(pid)[2])


def name_of(pid: int) -> str:
    try:
        return stat_of(pid)[0]
    except OSError:
        return ""


def state_of(pid: int) -> str:
    try:
        return stat_of(pid)[1]
    except OSError:
        return ""


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def folder_of(job: dict[str, Any]) -> str:
    """Where the node keeps its token and Ray's sockets and logs: a short path, sockets may have 107 bytes."""
    base = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()
    return os.path.join(base, job["folder"])


def is_own(folder: str) -> bool:
    """Whether there is such a folder, no link, and made by this user."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def share_of(job: dict[str, Any]) -> dict[str, Any]:
    """What the node was started with: who asks may have forgotten, or changed it since."""
    with open(os.path.join(folder_of(job), SHARE), encoding="utf-8") as file:
        return dict(json.load(file))


def write_private(path: str, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def store_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(OBJECT_STORE_BYTES, total // 10)


def filled(text: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        text = text.replace(name, value)
    return text


def tail(path: str, lines: int = 15) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return "\n".join("  " + line.rstrip() for line in file.readlines()[-lines:]) or "  (empty)"
