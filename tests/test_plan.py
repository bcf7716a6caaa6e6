"""What `plan` says of a run is what the run then has."""

from __future__ import annotations

import json

from streamrec_dist.config_file import parse_config
from streamrec_dist.data.build import validate
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.sizing import learner_memory, parameters, stage_steps
from streamrec_dist.stages.pretrain import pretrain
from streamrec_dist.stages.sft import sft
from tests.conftest import run_cli
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


def test_plan_starts_nothing_and_says_what_stands_against_it(folder):
    done = run_cli("plan", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["problems"] == []
    assert [stage["stage"] for stage in body["stages"]] == ["tokenize", "retrieve", "pretrain", "sft", "rl"]
    assert {role["role"] for role in body["stages"][-1]["roles"]} == {
        "rollout",
        "reward",
        "evaluate",
        "learners",
    }
    refused = run_cli("plan", "--set", "learners.cpus=3", cwd=folder)
    assert refused.returncode == 2
    assert "problem: learners.cpus asks for 3 CPUs in one process" in refused.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["cluster.yaml", "shop"]
