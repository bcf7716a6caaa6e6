"""What the doctor makes of facts about machines, and of the machine it runs on."""

from __future__ import annotations

import socket
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from cli.doctor import knock
from cli.findings import GIB, PACKAGES, Finding, clock, judge, way
from cli.remote import machine
from streamrec_dist.cluster_config import NodeConfig
from tests.conftest import last_json, run_cli

NODE = NodeConfig(host="gpu1", gpus=2, cpus=4)


def facts(**changes: Any) -> dict[str, Any]:
    """A machine without faults."""
    disk = {"free": 50 * GIB, "total": 100 * GIB, "writable": True}
    return {
        "system": "Linux",
        "python": "3.11.7",
        "executable": "/venv/bin/python",
        "packages": dict.fromkeys(PACKAGES, "3.0.1"),
        "cpus": 8,
        "memory": 64 * GIB,
        "gpus": ["H100", "H100"],
        "torch_gpus": 2,
        "shm": {"free": 32 * GIB, "total": 32 * GIB, "writable": True},
        "folders": {"/tmp": disk},
        "open_files": 65536,
        "way": "",
        "knocked": True,
        **changes,
    }


def found(**changes: Any) -> dict[str, Finding]:
    return {finding.check: finding for finding in judge("gpu1", facts(**changes), NODE, facts())}


def packages(**changes: str) -> dict[str, str]:
    return {**facts()["packages"], **changes}


def disk(free: float, writable: bool = True) -> dict[str, Any]:
    return {"/tmp": {"free": free * GIB, "total": 100 * GIB, "writable": writable}}


def test_a_machine_without_faults_gets_no_remedy() -> None:
    assert {(finding.state, finding.remedy) for finding in found().values()} == {("ok", "")}


@pytest.mark.parametrize(
    ("changes", "check", "state", "said"),
    [
        ({"python": "3.11.8"}, "python", "problem", "3.11.7, to the last digit"),
        ({"python": "3.10.2"}, "python", "problem", "3.11 or newer"),
        ({"system": "Darwin"}, "python", "problem", "only Linux"),
        ({"packages": packages(torch="")}, "packages", "problem", "pip install -c constraints.txt torch"),
        ({"packages": packages(ray="3.1.0")}, "packages", "problem", "pip install ray==3.0.1"),
        ({"packages": packages(ray="2.9.0")}, "packages", "problem", "let in anybody"),
        ({"packages": packages(numpy="2.9")}, "packages", "warning", "numpy==3.0.1"),
        ({"packages": packages(scipy="2.9")}, "packages", "ok", ""),
        ({"gpus": ["H100"], "torch_gpus": 1}, "gpus", "problem", "lower gpus"),
        ({"torch_gpus": 0}, "gpus", "problem", "CUDA"),
        ({"cpus": 2}, "cpus", "warning", "lower cpus"),
        ({"shm": {"free": GIB, "total": GIB, "writable": True}}, "shared memory", "warning", "--shm-size"),
        ({"folders": disk(0.5)}, "disk /tmp", "problem", "make room"),
        ({"folders": disk(4)}, "disk /tmp", "warning", "95%"),
        ({"folders": disk(50, writable=False)}, "disk /tmp", "problem", "cannot be written"),
        ({"open_files": 1024}, "open files", "warning", "ulimit"),
        ({"open_files": -1}, "open files", "ok", ""),
    ],
)
def test_every_fault_has_its_remedy(changes: dict[str, Any], check: str, state: str, said: str) -> None:
    results = found(**changes)
    assert results[check].state == state and said in results[check].remedy
    assert [name for name, finding in results.items() if finding.state != "ok"] == (
        [] if state == "ok" else [check]
    )


def test_head_and_nodes_have_to_reach_each_other() -> None:
    assert way("gpu1", facts(), "10.0.0.1").state == "ok"
    there = way("gpu1", facts(way="timed out"), "10.0.0.1")
    assert there.state == "problem" and "cluster.head" in there.remedy
    assert way("gpu1", facts(knocked=False), "10.0.0.1").state == "problem"


def test_clocks_that_differ_are_told() -> None:
    assert clock("gpu1", -1.5).state == "ok"
    late = clock("gpu1", -90.0)
    assert late.state == "warning" and "-90 s" in late.found and "NTP" in late.remedy


def test_a_machine_tells_which_ways_are_open() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        taken = listener.getsockname()[1]
        job = {"packages": ["ray", "no-such-package"], "folders": ["/no/such/folder"]}
        assert machine.main({**job, "head": f"127.0.0.1:{taken}"})["way"] != ""
        listener.listen()
        told = machine.main({**job, "head": f"127.0.0.1:{taken}"})
    assert told["way"] == "" and told["knocked"] is None
    assert told["packages"]["ray"] and told["packages"]["no-such-package"] == ""
    assert told["folders"]["/no/such/folder"]["free"] > 0


def test_the_head_knocks_at_a_port_that_was_free(monkeypatch: pytest.MonkeyPatch) -> None:
    done, job = Event(), {"packages": [], "folders": []}
    with socket.socket() as other, socket.socket() as placeholder:
        for one in (other, placeholder):
            one.bind(("", 0))
        # Something else answers at the first port.
        other.listen()
        taken, free = (one.getsockname()[1] for one in (other, placeholder))
        placeholder.close()
        with pytest.raises(OSError, match="are taken"):
            machine.main({**job, "listen": [taken]})
        with monkeypatch.context() as patch:
            patch.setattr(machine, "LISTEN_SECONDS", 0.1)
            assert machine.main({**job, "listen": [taken, free]})["knocked"] is False
        knocking = Thread(target=knock, args=("127.0.0.1", [taken, free], done))
        knocking.start()
        assert machine.main({**job, "listen": [taken, free]})["knocked"] is True
        done.set()
        knocking.join()


def test_this_machine_is_looked_at_without_a_cluster_or_configuration(tmp_path: Path) -> None:
    done = run_cli("doctor", "--json", cwd=tmp_path)
    body = last_json(done)
    assert done.returncode == (0 if body["ok"] else 3), done.stderr
    assert {finding["node"] for finding in body["findings"]} == {"head"}
    assert {finding["check"]: finding["state"] for finding in body["findings"]}["python"] == "ok"
    missing = run_cli("doctor", "none.yaml", cwd=tmp_path)
    assert missing.returncode == 2 and "streamrec-dist init" in missing.stderr
