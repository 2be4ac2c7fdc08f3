"""The package as installed: everything of the source tree is there, and the files that repeat each other agree."""

import ast
import importlib.util
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import bevdistill_ros
from bevdistill_ros import cli, paths
from bevdistill_ros.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
INSTALLED = Path(bevdistill_ros.__file__).parent
SOURCES = {"": REPOSITORY / "bevdistill_ros", "training": REPOSITORY / "training"}
ROS_MODULE = re.compile(r".*_msgs|builtin_interfaces|rcl.*|tf2_.*|launch.*|message_filters|cv_bridge|ament_.*")


def modules(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}


def test_the_tests_import_the_installed_tree():
    assert SOURCES[""] != INSTALLED, "run `make test`, or pytest on an installed package and not on the source folder"


def test_installed_modules_are_those_of_the_source_tree():
    expected = modules(SOURCES[""]) | {f"training/{name}" for name in modules(SOURCES["training"])}
    generated = {name for name in modules(INSTALLED) if name.startswith("msg/")}
    assert modules(INSTALLED) - generated == expected


def test_share_directory_holds_the_configuration():
    share = paths.share_directory()
    wanted = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "config").rglob("*") if path.is_file()}
    assert wanted
    assert all((share / path).is_file() for path in wanted)


def test_share_directory_holds_the_weights_that_are_shipped():
    wanted = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "weights").rglob("*") if path.is_file()}
    assert all((paths.share_directory() / path).is_file() for path in wanted)


def test_a_model_is_a_file_or_the_name_of_shipped_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "share_directory", lambda: tmp_path)
    with pytest.raises(UserError, match="model 'nano': no shipped weights .* holds none"):
        paths.model_path("nano")
    shipped = tmp_path / "weights" / "nano.safetensors"
    shipped.parent.mkdir()
    shipped.touch()
    assert paths.model_path("nano") == shipped
    with pytest.raises(UserError, match=r"model 'nanoo': .*shipped are nano"):
        paths.model_path("nanoo")
    own = tmp_path / "nano"
    own.touch()
    monkeypatch.chdir(tmp_path)
    assert paths.model_path("./nano").samefile(own)  # a word alone never means a file
    assert paths.model_path("nano") == shipped
    for missing in ("nano.safetensors", str(tmp_path / "mine"), ".", str(tmp_path)):
        with pytest.raises(UserError, match="no such checkpoint file"):
            paths.model_path(missing)


def test_missing_configuration_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "bevdistill_ros" / "paths.py"))
    monkeypatch.setattr(paths, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="configuration files of no_such_package are missing"):
        paths.share_directory()


def test_every_verb_has_its_program():
    programs = {path.name: path for path in (REPOSITORY / "scripts").iterdir()}
    assert set(programs) == set(cli.VERBS)
    listed = re.findall(r"^\s+scripts/(\w+)$", (REPOSITORY / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(cli.VERBS)
    for verb, path in programs.items():
        assert os.access(path, os.X_OK)
        assert f'main(["{verb}", *sys.argv[1:]])' in path.read_text()


def test_every_message_is_built():
    listed = re.findall(r"^\s+msg/(\w+)\.msg$", (REPOSITORY / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (REPOSITORY / "msg").glob("*.msg"))


def test_version_is_the_same_everywhere():
    manifest = ElementTree.parse(REPOSITORY / "package.xml").getroot()
    assert manifest.findtext("version") == bevdistill_ros.__version__


def imported_modules(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports, at any depth of it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_package_xml_names_every_ros_package_that_is_imported():
    manifest = ElementTree.parse(REPOSITORY / "package.xml").getroot()
    declared = {element.text for element in manifest if element.tag.endswith("depend")}
    files = [path for folder in (*SOURCES.values(), REPOSITORY / "launch") for path in folder.rglob("*.py")]
    imported = set().union(*map(imported_modules, files))
    assert {name for name in imported if ROS_MODULE.fullmatch(name)} <= declared


def test_cmake_paths_of_the_wheels_are_rewritten():
    path = REPOSITORY / "standalone" / "fix_cmake_paths.py"
    spec = importlib.util.spec_from_file_location("fix_cmake_paths", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = '"/opt/python/cp312-cp312/include/python3.12;/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy"'
    after = module.fixed(before, "/usr/include/python3.12", "/venv/lib/python3.12")
    assert after == '"/usr/include/python3.12;/venv/lib/python3.12/site-packages/numpy"'
    assert module.fixed(after, "/usr/include/python3.12", "/venv/lib/python3.12") == after
