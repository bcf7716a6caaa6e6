"""How GPUs are shared out, and what a cluster refuses. No GPU is needed to decide either."""

from __future__ import annotations

import pytest

from actors.placement import check_fits, stage_config
from streamrec_dist.config_file import parse_config
from streamrec_dist.errors import ConfigError


def shares(stage: str, gpus: float, text: str = "") -> tuple[float, dict[str, float]]:
    settled = stage_config(parse_config(text, "test"), stage, gpus)
    roles = {
        name: getattr(settled.actors, name).gpus for name in ("rollout", "reward", "evaluate", "annotate")
    }
    return settled.learners.gpus, roles


def test_without_gpus_nobody_asks_for_one():
    learners, roles = shares("rl", 0)
    assert learners == 0
    assert set(roles.values()) == {0}


def test_one_gpu_is_shared_by_all_processes_of_the_stage():
    # two ranks, two rollouts, one reward worker, two evaluators
    learners, roles = shares("rl", 1)
    assert learners == roles["rollout"] == roles["reward"] == pytest.approx(1 / 7, abs=1e-4)


@pytest.mark.parametrize("replicas", range(1, 20))
def test_shares_of_one_gpu_leave_room_for_the_last_process(replicas):
    learners, _ = shares("sft", 1, f"actors: {{annotate: {{replicas: {replicas}}}}}")
    # Ray rounds to ten-thousandths.
    assert round(learners * 10_000) * (replicas + 2 + 2) <= 10_000


def test_with_gpus_to_spare_every_rank_has_its_own():
    learners, roles = shares("rl", 4)
    assert learners == 1
    # five actors on the two that are left: three on one of them
    assert roles["rollout"] == pytest.approx(1 / 3, abs=1e-4)
    assert shares("rl", 8)[1]["rollout"] == 1


def test_roles_share_or_split_the_gpus_as_the_file_says():
    learners, roles = shares("rl", 4, "placement: colocated")
    # seven processes on four GPUs: two on one of them
    assert learners == roles["rollout"] == 0.5
    assert shares("rl", 3, "placement: split")[0] == 1
    assert shares("rl", 0, "placement: split")[0] == 0
    with pytest.raises(ConfigError, match="split gives each of 2 learner ranks a GPU"):
        shares("rl", 2, "placement: split")


def test_what_finds_no_room_waits_unless_it_is_needed():
    config = parse_config("actors: {rollout: {replicas: 9}}", "test")
    (warning,) = check_fits(config, ["sft", "rl"], [{"CPU": 2}])
    assert "actors.rollout 9 x 0.2" in warning and "what finds no room starts when nodes join" in warning
    assert check_fits(config, ["sft", "rl"], [{"CPU": 2}, {"CPU": 2}]) == []
    with pytest.raises(ConfigError, match=r"asks for 2\.4 CPUs"):
        check_fits(parse_config("actors: {rollout: {replicas: 9, minimum: 7}}", "test"), ["rl"], [{"CPU": 2}])
    with pytest.raises(ConfigError, match=r"learners 8 x 0\.3"):
        check_fits(parse_config("learners: {world_size: 8, cpus: 0.3}", "test"), ["rl"], [{"CPU": 2}])


def test_what_the_file_says_stands():
    learners, roles = shares("rl", 4, "learners: {gpus: 0.5}\nactors: {rollout: {gpus: 0}}")
    assert learners == 0.5
    assert roles["rollout"] == 0
