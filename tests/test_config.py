"""cluster.yaml: what is read, and what is refused with which words."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from streamrec_dist.config import Config
from streamrec_dist.config_file import differing_keys, dump_config, load_config, parse_config
from streamrec_dist.errors import ConfigError

REPO = Path(__file__).parents[1]


def leaves(model: type[BaseModel], at: str = "") -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            names |= leaves(section, f"{at}{name}.")
        else:
            names.add(at + name)
    return names


def leaves_of(tree: dict, at: str = "") -> set[str]:
    names: set[str] = set()
    for name, value in tree.items():
        names |= leaves_of(value, f"{at}{name}.") if isinstance(value, dict) else {at + name}
    return names


def test_the_shipped_file_is_the_one_in_the_repository() -> None:
    shipped = files("cli").joinpath("cluster.yaml").read_text(encoding="utf-8")
    assert (REPO / "cluster.yaml").read_text(encoding="utf-8") == shipped


def test_the_default_file_names_and_explains_every_key() -> None:
    text = (REPO / "cluster.yaml").read_text(encoding="utf-8")
    assert leaves_of(yaml.safe_load(text)) == leaves(Config)
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    sections = {f"{name}:" for name in ("cluster", "data", "items", "stages")}
    unexplained = [line for line in lines if "#" not in line and line.strip() not in sections | {"evaluate:"}]
    assert unexplained == []


@pytest.mark.parametrize("path", sorted(REPO.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_configs_in_the_repository_are_valid(path: Path) -> None:
    load_config(path)


def test_an_empty_file_and_empty_sections_mean_the_defaults() -> None:
    assert parse_config("", "f") == Config()
    assert parse_config("stages:\n  rl:\nmodel:\n", "f") == Config()


def test_a_section_of_one_key_has_the_defaults_of_the_others() -> None:
    different = {}
    for key in sorted(leaves(Config)):
        tree: Any = Config().model_dump(mode="json")
        for part in key.split("."):
            tree = tree[part]
        for part in reversed(key.split(".")):
            tree = {part: tree}
        different[key] = differing_keys(Config(), Config.model_validate(tree))
    assert not any(different.values()), different


def test_a_dumped_config_reads_back_equal() -> None:
    config = parse_config("{seed: 7, stages: {rl: {lr: 2.0e-6, rewards: {format: 0.5}}}}", "f")
    assert parse_config(dump_config(config), "g") == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "seed: 1\nstages:\n  rl:\n    group_sise: 4\n",
            "f:4: stages.rl.group_sise: no such key; did you mean group_size?",
        ),
        ("modell: {}\n", "f:1: modell: no such key; did you mean model?"),
        ("model:\n  d_model: big\n", "f:2: model.d_model: input should be a valid integer"),
        ("model:\n  dropout: 1.5\n", "f:2: model.dropout: input should be less than 1, not 1.5"),
        ("items:\n  collisions: digits\n", "did you mean digit?"),
        ("data:\n  format: csv\n", "f:1: data: a data set of format csv needs data.path"),
        ("cluster: {address: somewhere}\n", "f:1: cluster.address:"),
        (
            "cluster:\n  nodes:\n  - {host: a, rols: [rollout]}\n",
            "f:3: cluster.nodes.0.rols: no such key; did",
        ),
        ("cluster:\n  nodes:\n  - host: a\n  - host: b\n    roles: [x]\n", "f:5: cluster.nodes.1.roles:"),
        ("cluster: {nodes: [{user: me}]}\n", "f:1: cluster.nodes.0.host: field required"),
        ("cluster: {nodes: [{host: -oProxyCommand=x}]}\n", "f:1: cluster.nodes.0.host: expected the name"),
        ("cluster: {nodes: [{host: a}, {host: a}]}\n", "cluster.nodes has a twice"),
        ("cluster: {address: 'h:1', nodes: [{host: a}]}\n", "not one that runs at h:1"),
        ("cluster: {head: 127.0.0.1, nodes: [{host: a}]}\n", "which only this machine reaches"),
        ("stages: {rl: {negatives: 60}}\n", "raise items.neighbours"),
        ("seed: 1\nseed: 2\n", "f:2: seed: given twice"),
        ("a: [1\n", "f:2: not valid YAML"),
        ("- 1\n", "f:1: expected keys such as"),
        ("stages: {rl: {lr: .nan}}\n", "f:1: stages.rl.lr"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(text, "f")
    assert expected in str(error.value)


def test_overrides_win_and_their_errors_name_them() -> None:
    assert parse_config("seed: 1", "f", ["seed=9", "stages.rl.steps=5"]).stages.rl.steps == 5
    with pytest.raises(
        ConfigError, match=r"--set stages\.rl\.step=5: stages\.rl\.step: no such key; did you mean steps"
    ):
        parse_config("", "f", ["stages.rl.step=5"])
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_config("", "f", ["stages.rl.steps"])
    with pytest.raises(ConfigError, match="seed is a value, not a section"):
        parse_config("seed: 1", "f", ["seed.x=1"])


def test_a_folder_of_an_encoder_is_meant_from_where_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "own-encoder").mkdir()
    for name, expected in (("own-encoder", str(tmp_path / "own-encoder")), ("org/model", "org/model")):
        (tmp_path / "cluster.yaml").write_text(f"items: {{encoder: {name}}}", encoding="utf-8")
        assert load_config(tmp_path / "cluster.yaml").items.encoder == expected


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; `streamrec-dist init` writes one"):
        load_config(tmp_path / "cluster.yaml")


def test_differing_keys_are_named_with_both_values() -> None:
    assert differing_keys(Config(), parse_config("{seed: 4, model: {layers: 1}}", "f")) == [
        "seed: 1 -> 4",
        "model.layers: 4 -> 1",
    ]


def test_a_batch_that_ranks_cannot_share_is_refused_before_anything_runs() -> None:
    with pytest.raises(
        ConfigError, match=r"cluster.yaml:1: stages.pretrain.batch is 256, which 3 learner ranks"
    ):
        parse_config("learners: {world_size: 3}", "cluster.yaml")


def test_a_share_of_several_gpus_is_refused() -> None:
    with pytest.raises(ConfigError, match="whole GPUs"):
        parse_config("learners: {gpus: 1.5}", "cluster.yaml")
