"""How GPUs are shared out, and what a cluster refuses. No GPU is needed to decide either."""

from __future__ import annotations

import re

import pytest

from actors.placement import check_fits, room, stage_config, stage_needs
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # The cluster has room for all of it, the node that the role runs on has not.
        ("learners: {cpus: 2}", "for 2 CPUs in one process, the largest node of role learners has 1;"),
        ("learners: {cpus: 0.8}", "(learners 2 x 0.8), the nodes of learners have 1;"),
        ("actors: {rollout: {replicas: 9, minimum: 9, cpus: 0.6}}", "x 0.6), the nodes of rollout have 5;"),
        # Together the nodes have enough, but no process runs on two of them.
        (
            "actors: {rollout: {replicas: 8, minimum: 8, cpus: 0.6}}",
            "8 processes of 0.6 CPUs each, of which 7 find",
        ),
        ("actors: {rollout: {gpus: 1}}", "for 1 GPUs in one process, the largest node of role rollout has 0"),
    ],
)
def test_a_role_whose_nodes_are_too_small_is_refused(text, said):
    nodes = [
        {"CPU": 1, "role:learners": 1},
        {"CPU": 4, "role:rollout": 1},
        {"CPU": 1, "role:rollout": 1},
        {"CPU": 8},
    ]
    assert check_fits(parse_config("", "test"), ["sft", "rl"], nodes) == []
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_fits(parse_config(text, "test"), ["rl"], nodes)


def test_replicas_that_find_no_room_on_the_nodes_of_their_role_wait():
    config = parse_config("actors: {rollout: {replicas: 9, cpus: 1}}", "test")
    nodes = [{"CPU": 2, "role:rollout": 1}, {"CPU": 64}]
    (warning,) = check_fits(config, ["rl"], nodes)
    assert "the nodes of rollout have 2; what finds no room starts when nodes join" in warning
    counts = room(stage_needs(config, "rl", 0), nodes)
    assert counts["actors.rollout"] == [2, 0] and counts["learners"] == [0, 2]


def test_the_fewest_of_all_roles_find_room_before_the_others():
    config = parse_config("actors: {rollout: {replicas: 20, minimum: 2}}", "test")
    counts = {name: sum(found) for name, found in room(stage_needs(config, "rl", 0), [{"CPU": 2}]).items()}
    # 2 CPUs: ranks .6, a reward worker .2, an evaluator .2, two rollout actors .4, and three shares of .2 are left
    assert counts == {"actors.rollout": 5, "actors.reward": 1, "actors.evaluate": 1, "learners": 2}


def test_of_a_node_that_nobody_knows_all_is_expected_but_gpus_are_not_shared_out():
    unknown = {"CPU": float("inf"), "GPU": float("inf")}
    config = parse_config("learners: {cpus: 64}", "test")
    assert check_fits(config, ["rl"], [{"CPU": 1}, unknown]) == []
    assert stage_needs(config, "rl", 0)[-1].shares["GPU"] == 0
    with pytest.raises(ConfigError, match=r"learners\.cpus"):
        check_fits(config, ["rl"], [{"CPU": 1}, unknown | {"CPU": 32}])


def test_what_the_file_says_stands():
    learners, roles = shares("rl", 4, "learners: {gpus: 0.5}\nactors: {rollout: {gpus: 0}}")
    assert learners == 0.5
    assert roles["rollout"] == 0
