"""Python programs on another machine, through the system's ssh: nobody is asked, every wait ends."""

from __future__ import annotations

import inspect
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from streamrec_dist.cluster_config import NodeConfig
from streamrec_dist.errors import EnvironmentProblem

CONNECT_SECONDS = 8
#: ssh's own exit code for what went wrong before the other machine ran anything.
NOT_REACHED = 255
#: What a program says first, and what goes before its answer: login scripts may print something too.
BEGUN, ANSWER = "streamrec-dist begins", "streamrec-dist answers: "
#: What ssh says, and what is to be done about it.
REMEDIES = {
    "Permission denied": "it takes no key of yours: `ssh-copy-id {target}` puts one there, cluster.nodes[].key "
    "names another (passwords are never asked for)",
    "Host key verification failed": "its key is not known here: run `ssh {target}` once and compare the "
    "fingerprint it shows",
    "Could not resolve hostname": "no machine has this name: correct cluster.nodes[].host, or add the name to "
    "~/.ssh/config",
    "Connection refused": "no SSH server answers there: start one, or set cluster.nodes[].port",
    "timed out": "it is off, or a firewall is in between",
    "No route to host": "it is off, or a firewall is in between",
}


class NodeProblem(EnvironmentProblem):
    """Why a program was of no use on another machine; `left`: something that it began may be there."""

    def __init__(self, message: str, left: bool):
        super().__init__(message)
        self.left = left


class Unreachable(NodeProblem):
    """A machine that ssh does not get to, or not to the end."""


def ssh_command(node: NodeConfig) -> list[str]:
    """The command line that runs a Python program, given on stdin, on a node."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_SECONDS),
        # A machine that vanishes in between is noticed.
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        # A master that stays behind would keep our pipes open.
        "ControlMaster": "no",
    }
    command = ["ssh", "-T", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    for option, given in (("-l", node.user), ("-p", node.port), ("-i", node.key)):
        command += [option, str(given)] if given else []
    # Isolated: what lies in the home folder there must not be imported.
    return [*command, "--", node.host, f"exec {shlex.quote(interpreter(node))} -I -"]


def interpreter(node: NodeConfig) -> str:
    """The Python of a node: without another word the path that it has here."""
    return node.python or sys.executable


def run_there(
    node: NodeConfig, program: ModuleType, job: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """What `program.main(job)` returns on a node.

    Program and job travel on stdin: a token in them is on no command line and in no environment. Raises Unreachable
    with ssh's own words, NodeProblem when the program cannot run there or says `error`.
    """
    # JSON text is ASCII here, and its repr a Python literal.
    text = json.dumps(dict(job))
    source = f"{inspect.getsource(program)}\n\nimport json\nprint({BEGUN!r}, flush=True)\n"
    source += f"print({ANSWER!r} + json.dumps(main(json.loads({text!r}))))\n"
    try:
        done = subprocess.run(
            ssh_command(node), input=source, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except FileNotFoundError:
        raise NodeProblem("no `ssh` on this machine; install OpenSSH's client", left=False) from None
    except subprocess.TimeoutExpired as error:
        begun = BEGUN.encode() in (error.stdout or b"")
        raise Unreachable(f"{node.name}: waited {seconds:.0f} s for an answer", begun) from None
    return _answer(node, done)


def _answer(node: NodeConfig, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    said = "; ".join(line.strip() for line in done.stderr.splitlines()[-3:] if line.strip())
    begun = BEGUN in done.stdout
    if done.returncode == NOT_REACHED:
        raise Unreachable(f"{node.name}: {said or 'ssh failed'}\n  {_remedy(node, said)}", begun)
    lines = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode in (126, 127):
        raise NodeProblem(
            f"{node.name}: {said}\n  there is no {interpreter(node)} there: install Python with ray and torch at "
            "that path, or name the one to use with cluster.nodes[].python",
            begun,
        )
    if done.returncode or not lines:
        raise NodeProblem(f"{node.name}: {said or 'no answer'} (exit code {done.returncode})", begun)
    answer: dict[str, Any] = json.loads(lines[-1].removeprefix(ANSWER))
    if answer.get("error"):
        raise NodeProblem(f"{node.name}: {answer['error']}", bool(answer["left"]))
    return answer


def _remedy(node: NodeConfig, said: str) -> str:
    target = f"{node.user}@{node.host}" if node.user else node.host
    known = next((remedy for sign, remedy in REMEDIES.items() if sign in said), "try by hand: ssh {target}")
    return known.format(target=target)


def with_key(node: NodeConfig, folder: Path) -> NodeConfig:
    """The node with the path of its key made absolute; one in cluster.yaml is meant from where the file is."""
    if node.key is None:
        return node
    return node.model_copy(update={"key": str((folder / Path(node.key).expanduser()).absolute())})
