"""Nothing that comes from outside is ever run: no pickle, eval, exec or shell in any file of the packages."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("bevdistill_ros", "training", "benchmark", "launch", "scripts", "standalone")
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all", "runpy.run_path",
}  # fmt: skip


def dotted(node: ast.expr) -> str:
    """'os.path.join' of such an expression; '' of any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def forbidden_calls(source: str) -> list[str]:
    """What a module must not hold, with its line."""
    tree, names = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = dotted(node.func).split(".")
        name = ".".join([names.get(first, first), *rest])
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        true = {option for option, value in options.items() if isinstance(value, ast.Constant) and value.value is True}
        if (
            name in FORBIDDEN
            or (name == "torch.load" and "weights_only" not in true)
            or (
                "shell" in options
                and not (isinstance(options["shell"], ast.Constant) and options["shell"].value is False)
            )
            or (name in ("np.load", "numpy.load") and "allow_pickle" in options)
        ):
            found.append(f"{name} in line {node.lineno}")
    return found


def is_python(path: Path) -> bool:
    return path.suffix == ".py" or (path.suffix == "" and path.read_bytes().startswith(b"#!/usr/bin/env python"))


def test_no_file_runs_what_it_reads():
    files = [
        path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*") if path.is_file() and is_python(path)
    ]
    assert len(files) > 150
    found = {path: forbidden_calls(path.read_text(encoding="utf-8")) for path in files}
    assert {str(path.relative_to(REPOSITORY)): calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')", "import os; os.system('ls')", "import pickle as p; p.load(f)", "from pickle import loads; loads(b)",
        "import yaml; yaml.load(t, Loader=yaml.Loader)", "import torch; torch.load(f)", "torch.load(f, weights_only=False)",
        "import subprocess; subprocess.run('ls', shell=True)", "run(x, shell=wanted)", "np.load(f, allow_pickle=True)",
    ],
)  # fmt: skip
def test_the_search_finds(line: str):
    assert forbidden_calls(line)


@pytest.mark.parametrize(
    "line",
    ["model.eval()", "torch.load(f, weights_only=True)", "yaml.safe_load(t)", "re.compile('a')", "import pickle"],
)
def test_the_search_leaves(line: str):
    assert not forbidden_calls(line)
