"""Reading cluster.yaml: errors name file:line, the key, what was expected, and the likely fix."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from streamrec_dist.config import Config
from streamrec_dist.errors import ConfigError
from streamrec_dist.yaml_tree import read_yaml

KeyPath = tuple[str, ...]
#: Keys that hold paths: section, name.
ENCODER = ("items", "encoder")
PATHS = (("data", "path"), ("items", "ids"), ENCODER)
DOTTED = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")


def load_config(
    path: str | Path, overrides: Sequence[str] = (), absent: Mapping[KeyPath, str | float] | None = None
) -> Config:
    """Read and check a cluster.yaml, with `key.sub=value` overrides applied on top.

    `absent` are values of keys that the file lacks, where those are not the defaults. Raises ConfigError naming
    `file:line: key` for the first problem of each kind found.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `streamrec-dist init` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    config = parse_config(text, str(path), overrides, absent)
    return _with_absolute_paths(config, path, overrides)


def _with_absolute_paths(config: Config, source: Path, overrides: Sequence[str]) -> Config:
    """A path in the file is meant from where the file is; one given as an override, from where the user is."""
    for section, name in PATHS:
        part = getattr(config, section)
        value = getattr(part, name)
        if value is None:
            continue
        overridden = any(override.startswith(f"{section}.{name}=") for override in overrides)
        base = Path.cwd() if overridden else source.absolute().parent
        try:
            if (section, name) == ENCODER and not (base / value).is_dir():
                # The name of a model, not a folder.
                continue
            resolved = str((base / value).resolve())
        except (OSError, RuntimeError, ValueError) as error:
            # Too long, a circle of links, a null character.
            raise ConfigError(
                f"{source}: {section}.{name}: {value!r:.80} cannot be a path ({error})"
            ) from None
        moved = part.model_copy(update={name: resolved})
        config = config.model_copy(update={section: moved})
    return config


def parse_config(
    text: str, source: str, overrides: Sequence[str] = (), absent: Mapping[KeyPath, str | float] | None = None
) -> Config:
    """Check YAML text; `source` is what errors call it. Raises ConfigError."""
    try:
        root, tree = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{source}{line}: not valid YAML: {problem}") from None
    tree = {} if root is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}:1: expected keys such as `data:` and `stages:`, found {tree!r:.60}")
    lines: dict[KeyPath, str] = {}
    if root is not None:
        for key, number in _key_lines(root, source):
            if key in lines:
                raise ConfigError(f"{source}:{number}: {'.'.join(key)}: given twice; keep one of them")
            lines[key] = f"{source}:{number}"
    for key, value in (absent or {}).items():
        if key not in lines:
            _set(tree, key, value, ".".join(key))
    for override in overrides:
        key, value = _parse_override(override)
        _set(tree, key, value, override)
        lines[key] = f"--set {override}"
    # A section whose keys are all commented out reads as null; it means the defaults.
    _drop_empty_sections(tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, lines, source))) from None


def dump_config(config: Config) -> str:
    """YAML text of the whole tree; reading it back gives an equal Config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def differing_keys(one: Config, other: Config) -> list[str]:
    """Dotted names of the keys in which two configurations differ, with both values."""
    return [
        f"{key}: {as_written(a)} -> {as_written(b)}" for key, (a, b) in differing_values([one, other]).items()
    ]


def as_written(value: Any) -> str:
    """A value as a configuration file may have it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differing_values(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """Dotted name of each key in which configurations differ -> its value in each of them."""

    def walk(values: list[Any], at: str) -> Iterator[tuple[str, list[Any]]]:
        if all(isinstance(value, dict) for value in values):
            for key in values[0]:
                yield from walk([value.get(key) for value in values], f"{at}.{key}" if at else key)
        elif any(value != values[0] for value in values):
            yield at, values

    return dict(walk([config.model_dump(mode="json") for config in configs], ""))


def _key_lines(node: yaml.Node, source: str, at: KeyPath = ()) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = (*at, str(key_node.value))
            yield key, key_node.start_mark.line + 1
            yield from _key_lines(value_node, source, key)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*at, str(number)), item.start_mark.line + 1
            yield from _key_lines(item, source, (*at, str(number)))


def _parse_override(override: str) -> tuple[KeyPath, Any]:
    name, equals, value = override.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {override}: expected key=value, such as stages.rl.steps=100")
    try:
        return tuple(name.strip().split(".")), read_yaml(value)[1]
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from None


def _set(tree: dict[str, Any], key: KeyPath, value: Any, override: str) -> None:
    for part in key[:-1]:
        if tree.get(part) is None:
            tree[part] = {}
        tree = tree[part]
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: {part} is a value, not a section")
    tree[key[-1]] = value


def _drop_empty_sections(tree: dict[str, Any], model: type[BaseModel] = Config) -> None:
    for key, value in list(tree.items()):
        section = _section_of(model, key)
        if section is None:
            continue
        if value is None:
            del tree[key]
        elif isinstance(value, dict):
            _drop_empty_sections(value, section)


def _section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    field = model.model_fields.get(key)
    annotation = field.annotation if field else None
    if get_origin(annotation) is tuple:
        # A list of sections: its items are what has keys.
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _explain(error: ValidationError, lines: dict[KeyPath, str], source: str) -> Iterator[str]:
    messages: dict[KeyPath, list[str]] = {}
    for problem in error.errors():
        key = _real_key(tuple(str(part) for part in problem["loc"]), problem["type"])
        messages.setdefault(key, []).append(_message(problem, key))
    for key, found in messages.items():
        # A check of several keys together names the one to look at first.
        mentioned = (tuple(name.split(".")) for name in DOTTED.findall(found[0]))
        named = key or next((path for path in mentioned if path in lines), ())
        place = next((lines[named[:n]] for n in range(len(named), 0, -1) if named[:n] in lines), source)
        name = f"{'.'.join(key)}: " if key else ""
        yield f"{place}: {name}{', or '.join(dict.fromkeys(found))}"


def _real_key(loc: KeyPath, kind: str) -> KeyPath:
    """The part of a location that stands in the file: behind it pydantic names alternatives of a type."""
    model: type[BaseModel] | None = Config
    for depth, part in enumerate(loc):
        if model is not None and part.isdigit():
            continue
        if model is None or part not in model.model_fields:
            return loc[: depth + 1] if kind == "extra_forbidden" else loc[:depth]
        model = _section_of(model, part)
    return loc


def _message(problem: Any, key: KeyPath) -> str:
    if problem["type"] == "extra_forbidden":
        known = _known_keys(key[:-1])
        close = difflib.get_close_matches(key[-1], known, n=1)
        return "no such key; " + (f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}")
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:] if message[1:2].islower() else message
    given = "" if problem["type"] == "value_error" else f", not {problem['input']!r:.60}"
    return f"{message}{given}{_choice_hint(problem)}"


def _choice_hint(problem: Any) -> str:
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return ""
    choices = _choices(tuple(str(part) for part in problem["loc"]))
    close = difflib.get_close_matches(problem["input"], choices, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else ""


def _choices(key: KeyPath) -> list[str]:
    model: type[BaseModel] | None = Config
    for part in key[:-1]:
        if not part.isdigit():
            model = _section_of(model, part) if model else None
    field = model.model_fields.get(key[-1]) if model else None
    return [str(choice) for choice in get_args(field.annotation)] if field else []


def _known_keys(key: KeyPath) -> list[str]:
    model: type[BaseModel] | None = Config
    for part in key:
        if not part.isdigit():
            model = _section_of(model, part) if model else None
    return list(model.model_fields) if model else []
