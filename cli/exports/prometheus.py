"""What a run is at, for Prometheus: an HTTP endpoint in its text format, for this machine unless told otherwise."""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cli.exports.exporter import Exporter, numbers
from streamrec_dist.cluster_config import is_loopback
from streamrec_dist.errors import EnvironmentProblem
from streamrec_dist.events import Event
from streamrec_dist.rundir import RunDir
from streamrec_dist.summary import RunSummary, StageSummary
from streamrec_dist.summary_file import inherited, summarised

LOOPBACK, PORT = "127.0.0.1", 9464
#: Seconds that a client may take for its request, and that the last state of a run is there to be asked for.
REQUEST_S, LAST_S = 10.0, 60.0
#: How often the server looks whether it is to end.
POLL_S = 0.1
#: Of names and labels, which may come from anybody, so many characters are told.
LONGEST = 200
STATES = ("going", "silent", "paused", "done", "failed", "stopped")
#: Metrics of a step with a label of their own: their prefix, the metric here, the label, what it is.
LABELLED = {
    "reward/": ("reward", "reward", "mean reward of the newest step, before it is weighed"),
    "spread/": ("reward_spread", "reward", "spread of a reward within the groups of the newest step"),
    "share/": ("reward_share", "reward", "share of a reward in the advantages of the newest step"),
    "time/": ("time_seconds", "part", "seconds that all processes spent on a part of the newest step"),
}
ROOT = b"streamrec-dist: what a run is at is at /metrics\n"


class Prometheus(Exporter):
    """Serves what the run is at; `close` leaves its end there until it was asked for once more.

    Raises EnvironmentProblem where it cannot listen.
    """

    def __init__(self, run: RunDir, host: str = LOOPBACK, port: int = PORT):
        super().__init__(run)
        taken = inherited(run)
        self.summary, reader = summarised(run)
        self.readers = [reader]
        self.lock = threading.Condition()
        #: How often this was asked for, and the last time of these that was answered.
        self.asked = self.answered = 0
        registry = CollectorRegistry()
        registry.register(Families(taken, self.summary))
        try:
            self.server = (Server6 if ":" in host else Server)((host, port), _handler(self, registry, host))
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot listen at {host}:{port}: {error.strerror or error}; another port is taken by: "
                f"streamrec-dist export {run.name} --prometheus --port N"
            ) from None
        shown = f"[{host}]" if ":" in host else host
        self.about = f"Prometheus endpoint at http://{shown}:{self.server.server_port}/metrics"
        threading.Thread(target=self.server.serve_forever, args=[POLL_S], daemon=True).start()

    def take(self, events: Sequence[Event]) -> None:
        with self.lock:
            self.summary.apply_all(events)

    def close(self) -> None:
        with self.lock:
            before = self.asked
            # Where nobody has asked so far, nobody will.
            if self.summary.ended and before:
                self.lock.wait_for(lambda: self.answered > before, LAST_S)
        self.server.shutdown()
        self.server.server_close()


class Server(ThreadingHTTPServer):
    """A thread for each request."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that leaves in the middle of something is no news.
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Server6(Server):
    """The same at an address of IPv6."""

    address_family = socket.AF_INET6


class Families(Collector):
    """The metrics of a run, and of the stages that it has from another."""

    def __init__(self, taken: RunSummary, summary: RunSummary):
        self.taken, self.summary = taken, summary

    def collect(self) -> Iterator[Metric]:
        stages = {**self.taken.stages, **{s.name: s for s in self.summary.stages.values() if _seen(s)}}
        return iter(Found(self.summary, [stage for stage in stages.values() if _seen(stage)]).families())


def _seen(stage: StageSummary) -> bool:
    return stage.state != "waiting" or bool(stage.evaluations)


class Found:
    """The families of one answer, by name; of two metrics whose names come down to the same one the first counts."""

    def __init__(self, summary: RunSummary, stages: Sequence[StageSummary]):
        self.summary, self.stages = summary, stages
        self.found: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        self.added: set[tuple[str, ...]] = set()

    def families(self) -> list[Metric]:
        self._run()
        for stage in self.stages:
            self._stage(stage)
        for row in self.summary.processes:
            self._worker(row)
        return list(self.found.values())

    def _run(self) -> None:
        summary = self.summary
        state = summary.state_at(time.time())
        for one in STATES:
            self._gauge("run_state", "1 for the state that the run is in", float(one == state), state=one)
        self._counter("warnings", "warnings of the run", summary.warned)
        self._counter("starts", "how often the run was started", summary.lives)
        self._gauge("last_event_timestamp_seconds", "when the newest event was written", summary.last)

    def _stage(self, stage: StageSummary) -> None:
        at = {"stage": stage.name}
        self._gauge("stage_active", "1 for the stage at work", float(stage is self.summary.current()), **at)
        # No counter: steps are made again after a resume, and their number falls then.
        self._gauge("steps", "steps of a stage, 0 for none", stage.step, **at)
        self._gauge("steps_planned", "steps that a stage is to make, 0 where that is open", stage.total, **at)
        for behind, prompts in enumerate(stage.staleness):
            text = "prompts trained on, by the versions that their rollouts were behind"
            self._gauge("stale_prompts", text, prompts, behind=str(behind), **at)
        for name, value in numbers(stage.evaluation.metrics if stage.evaluation else {}):
            text = "measures of the newest evaluation"
            self._gauge("evaluation", text, value, measure=name, **at)
        for name, value in numbers(stage.outcome):
            text = "what a stage that is done came to"
            self._gauge("outcome", text, value, measure=name, **at)
        for name, value in numbers(stage.metrics):
            prefix = next((one for one in LABELLED if name.startswith(one)), None)
            if prefix:
                family, label, text = LABELLED[prefix]
                self._gauge(family, text, value, **{label: name.removeprefix(prefix)}, **at)
            elif name in stage.metrics:
                # A file of events may name its metrics as it likes: none of them gets in the way of those above.
                plain = re.sub(r"[^a-zA-Z0-9_]", "_", name)[:LONGEST]
                self._gauge(f"step_{plain}", f"{plain} of the newest step (docs/events.md)", value, **at)

    def _worker(self, row: Mapping[str, Any]) -> None:
        at = {name: str(row.get(name, "")) for name in ("role", "number", "node")}
        ready = float(row.get("state") == "ready")
        self._gauge(
            "worker_ready", "1 for a process that is up, 0 for one that starts or leaves", ready, **at
        )
        for name, family, text, scale in (
            ("rate", "worker_calls_per_second", "calls that a process answered, a second", 1),
            ("memory_mib", "worker_memory_bytes", "resident memory of a process", 2**20),
            ("version", "worker_version", "the weights that a process has, in optimizer steps", 1),
        ):
            for _, value in numbers({name: row.get(name)}):
                self._gauge(family, text, value * scale, **at)
        for _, value in numbers({"restarts": row.get("restarts")}):
            self._counter("worker_restarts", "how often a process was replaced", value, **at)

    def _gauge(self, name: str, text: str, value: float, **labels: str) -> None:
        self._add(GaugeMetricFamily, name, text, value, labels)

    def _counter(self, name: str, text: str, value: float, **labels: str) -> None:
        self._add(CounterMetricFamily, name, text, value, labels)

    def _add(self, kind: Any, name: str, text: str, value: float, labels: dict[str, str]) -> None:
        labels = {"run": self.summary.run, **labels}
        values = [label[:LONGEST] for label in labels.values()]
        family = self.found.setdefault(name, kind(f"streamrec_{name}", text, labels=list(labels)))
        if (name, *values) not in self.added:
            self.added.add((name, *values))
            family.add_metric(list(values), value)


def _handler(endpoint: Prometheus, registry: CollectorRegistry, host: str) -> type[BaseHTTPRequestHandler]:
    """Answers GET /metrics, and GET / with where that is; nothing else."""

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S
        server_version, sys_version = "streamrec-dist", ""

        def do_GET(self) -> None:
            if is_loopback(host) and not _names_this_machine(self.headers.get("Host", "")):
                # A web page whose name was made to lead here.
                self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            elif self.path == "/metrics":
                with endpoint.lock:
                    endpoint.asked += 1
                    number, body = endpoint.asked, generate_latest(registry)
                self._answer(body, CONTENT_TYPE_PLAIN_0_0_4)
                with endpoint.lock:
                    endpoint.answered = max(endpoint.answered, number)
                    endpoint.lock.notify_all()
            elif self.path == "/":
                self._answer(ROOT, "text/plain; charset=utf-8")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """A terminal with a view is no place for it."""

    return Handler


def _names_this_machine(host: str) -> bool:
    """Whether the Host of a request is this machine's own name for itself."""
    name = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d*)?", host)
    return name is not None and (not host or is_loopback(name[1].strip("[]")))
