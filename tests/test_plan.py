"""What `plan` says of a run is what the run then has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.estimate import Node, estimate, to_be_started
from streamrec_dist.config_file import parse_config
from streamrec_dist.data.build import validate
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.sizing import learner_memory, parameters, stage_steps
from streamrec_dist.stages.pretrain import pretrain
from streamrec_dist.stages.sft import sft
from tests.conftest import run_cli, write_shop
from tests.local_ports import TINY, MemoryStore, local_context, tiny_materials


def test_parameters_and_steps_are_those_of_the_run():
    config = parse_config(TINY, "tiny")
    materials = tiny_materials(config)
    assert parameters(config) == sum(value.numel() for value in materials.new_model().parameters())
    steps = stage_steps(config, validate(demo_catalogue(users=120, items=90, seed=0)))
    store = MemoryStore()
    for stage in (pretrain, sft):
        store.finish_stage(stage(local_context(materials, store)))
    for name in ("pretrain", "sft"):
        made = [event.step for event in store.of_kind("step", name)]
        assert max(made) <= steps[name] == store.of_kind("step", name)[0].total
    assert steps["rl"] == 6


def test_memory_grows_with_the_model_and_the_batch_and_shrinks_with_passes():
    def host(*overrides: str) -> int:
        return learner_memory(parse_config(TINY, "tiny", list(overrides)), "pretrain").host

    assert host() < host("model.d_model=128") < host("model.d_model=128", "stages.pretrain.batch=512")
    assert host("stages.pretrain.batch=4096", "learners.pass_tokens=4096") < host(
        "stages.pretrain.batch=4096"
    )


def test_plan_starts_nothing_and_says_what_stands_against_it(folder: Path):
    before = sorted(path.name for path in folder.iterdir())
    more = ("--set", "cluster.nodes=[{host: gpu1, roles: [rollout]}]", "--set", "cluster.gpus=0")
    more += ("--set", "cluster.roles=[learners]")
    done = run_cli("plan", "--json", *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert (body["up"], body["problems"], [node["cpus"] for node in body["nodes"]]) == (False, [], [2, None])
    assert [stage["stage"] for stage in body["stages"]] == ["tokenize", "retrieve", "pretrain", "sft", "rl"]
    assert set(roles_of(body, "rl")) == {"rollout", "reward", "evaluate", "learners"}
    refused = run_cli("plan", *more, "--set", "learners.cpus=3", cwd=folder)
    assert refused.returncode == 2
    rows = [line.split() for line in refused.stdout.splitlines()]
    assert ["rl", "rollout", "gpu1", "2", "1", "?"] in [row[:6] for row in rows]
    assert ["sft", "annotate", "any", "node", "2", "1", "2"] in [row[:7] for row in rows]
    assert "?: all that the machine has; known when it is up" in refused.stderr
    assert (
        "problem: learners.cpus asks for 3 CPUs in one process, the largest node of role learners has 2"
        in refused.stderr
    )
    assert sorted(path.name for path in folder.iterdir()) == before


#: Two machines for rollouts, of one of which the file says nothing, and this one for the learners.
MACHINES = """
cluster:
  cpus: 4
  gpus: 0
  roles: [learners]
  nodes: [{host: gpu1, roles: [rollout]}, {host: gpu2, port: 22, roles: [rollout, evaluate], cpus: 2, gpus: 1}]
actors: {rollout: {replicas: 12, cpus: 1, gpus: 0}, evaluate: {replicas: 3, cpus: 1, gpus: 0}}
learners: {gpus: 0}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for data that are read in no time."""
    folder = tmp_path_factory.mktemp("plan") / "shop"
    write_shop(folder)
    return ["data.format=csv", f"data.path={folder}"]


def roles_of(body: dict[str, Any], stage: str) -> dict[str, dict[str, Any]]:
    (found,) = (one["roles"] for one in body["stages"] if one["stage"] == stage)
    return {role["role"]: role for role in found}


def test_the_nodes_are_this_machine_and_those_of_the_file_as_far_as_they_are_known():
    head, first, second = to_be_started(parse_config(MACHINES, "test"))
    assert (head.node, head.roles, head.cpus, head.gpus, head.gpu_memory_gib) == (
        "head",
        ("learners",),
        4,
        0,
        0,
    )
    assert head.memory_gib and head.memory_gib > 0
    assert (first.cpus, first.gpus, first.memory_gib) == (None, None, None)
    assert (second.node, second.cpus, second.gpus, second.gpu_memory_gib) == ("gpu2:22", 2, 1, None)
    (here,) = to_be_started(parse_config("", "test"))
    assert here.gpus == torch.cuda.device_count()
    (elsewhere,) = to_be_started(parse_config("cluster: {address: 'ray:6379'}", "test"))
    assert elsewhere == Node("ray:6379")


def test_every_role_is_planned_on_the_nodes_that_it_is_for(shop: list[str]):
    config = parse_config(MACHINES, "test", shop)
    body = estimate(config, to_be_started(config))
    assert body["problems"] == []
    planned = roles_of(body, "rl")
    assert {name: role["nodes"] for name, role in planned.items()} == {
        "rollout": ["gpu1", "gpu2:22"],
        "reward": ["head", "gpu1", "gpu2:22"],
        "evaluate": ["gpu2:22"],
        "learners": ["head"],
    }
    # Of three evaluators two find room on the two cores of their machine; of gpu1 nobody knows.
    assert roles_of(body, "retrieve")["evaluate"]["fit"] == 2
    assert planned["learners"]["fit"] == 2 and planned["rollout"]["fit"] is None
    (warning,) = [one for one in body["warnings"] if "stage retrieve" in one]
    assert "actors.evaluate 3 x 1), the nodes of evaluate have 2" in warning


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["learners.cpus=3"],
            "stage tokenize asks for 6 CPUs (learners 2 x 3), the nodes of learners have 4",
        ),
        (
            ["actors.evaluate.cpus=3"],
            "actors.evaluate.cpus asks for 3 CPUs in one process, the largest node of role",
        ),
        (
            ["learners.gpus=1"],
            "learners.gpus asks for 1 GPUs in one process, the largest node of role learners has 0",
        ),
        (["actors.evaluate.gpus=2"], "actors.evaluate.gpus asks for 2 GPUs in one process"),
        # The same where nobody knows how much there is.
        (["actors.rollout.cpus=64", "actors.rollout.gpus=8"], ""),
        (["actors.embed.cpus=64"], ""),
    ],
)
def test_what_the_nodes_of_a_role_have_no_room_for_is_a_problem(
    shop: list[str], overrides: list[str], said: str
):
    config = parse_config(MACHINES, "test", [*shop, *overrides])
    problems = estimate(config, to_be_started(config))["problems"]
    assert len(problems) == bool(said) and said in "".join(problems)


def test_memory_is_compared_with_what_a_run_cannot_do_without(shop: list[str]):
    config = parse_config("actors: {rollout: {replicas: 40, cpus: 0}}", "test", shop)

    def told(memory_gib: float | None) -> tuple[str, str]:
        body = estimate(config, [Node("head", (), 8, 0, memory_gib, 0)])
        return "\n".join(body["problems"]), "\n".join(body["warnings"])

    assert told(None) == told(1000.0) == ("", "")
    problems, warnings = told(16.0)
    assert problems == "" and "GiB of memory (actors.rollout 40 x" in warnings and "stage sft" not in warnings
    problems, _ = told(2.5)
    assert "stage rl asks for" in problems and "GiB of memory (actors.rollout 1 x" in problems
    assert "GiB of memory in one process" in told(0.3)[0]


def test_gpu_memory_is_compared_where_it_is_known(shop: list[str]):
    config = parse_config("", "test", shop)

    def problems(gpus: float, gpu_memory_gib: float | None) -> str:
        return "\n".join(estimate(config, [Node("head", (), 8, gpus, 64.0, gpu_memory_gib)])["problems"])

    assert problems(1, None) == problems(1, 80.0) == ""
    assert "GiB of GPU memory (actors.evaluate 1 x" in problems(1, 3.0)
    # Sixteen small ones have as much together as a large one, but no process runs on two.
    assert "GiB of GPU memory in one process" in problems(16, 16.0)
    assert problems(0, 0.0) == ""
