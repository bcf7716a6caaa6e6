"""The rules that keep files from becoming code, read off our own sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.test_layers import LAYERS, REPO, imported, sources

MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
#: Calls by the last part of their names: what must not be said, and what must.
BUILTIN = {"eval", "exec", "compile", "__import__"}
FORBIDDEN = {
    ("yaml", name)
    for name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all")
}
FORBIDDEN |= {("yaml", name) for name in ("Loader", "UnsafeLoader", "FullLoader")}
FORBIDDEN |= {("os", name) for name in ("system", "popen")}
FORBIDDEN |= {(name, "read_pickle") for name in ("pd", "pandas")}


def violations(source: str) -> Iterator[str]:
    """What a source does that could run code from a file, or a shell."""
    for name in set(imported(source)) & MODULES:
        yield f"imports {name}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and (ast.unparse(node.value), node.attr) in FORBIDDEN:
            yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and any(
            (node.module, name.name) in FORBIDDEN for name in node.names
        ):
            yield f"from {node.module} import"
        if isinstance(node, ast.Call):
            yield from _call(node)


def _call(node: ast.Call) -> Iterator[str]:
    said = {keyword.arg: keyword.value for keyword in node.keywords}
    name = ast.unparse(node.func)
    if name in BUILTIN:
        yield f"calls {name}"
    if name == "torch.load" and not _is(said.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    for keyword, allowed in (("allow_pickle", False), ("shell", False), ("trust_remote_code", False)):
        if keyword in said and not _is(said[keyword], allowed):
            yield f"{name} with {keyword}"
    if name.endswith("from_pretrained") and None not in said and "trust_remote_code" not in said:
        yield f"{name} without trust_remote_code=False"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from cloudpickle import loads",
        "import marshal, os",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.compose(text, Loader=yaml.FullLoader)",
        "from yaml import unsafe_load",
        "eval('1')",
        "exec(text)",
        "subprocess.run('ls', shell=True)",
        "os.system('ls')",
        "pd.read_pickle(path)",
        "AutoModel.from_pretrained(folder)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
    ],
)
def test_each_rule_finds_what_it_is_for(source: str) -> None:
    assert list(violations(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "yaml.safe_load(text)",
        "model.eval()",
        "ast.literal_eval(text)",
        "re.compile(text)",
        "subprocess.run(['ls'])",
        "AutoModel.from_pretrained(folder, **LOCAL)",
    ],
)
def test_and_nothing_else(source: str) -> None:
    assert not list(violations(source))


@pytest.mark.parametrize("layer", LAYERS)
def test_no_source_of_ours_runs_code_from_a_file(layer: str) -> None:
    wrong = [
        f"{path.relative_to(REPO)}: {what}"
        for path in sources(layer)
        for what in violations(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []
