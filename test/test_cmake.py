"""What the build file does to the generated library, for the generators of all ROS 2 releases."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FUNCTION = Path(__file__).resolve().parents[1] / "cmake" / "include_where_built.cmake"
PROJECT = """
cmake_minimum_required(VERSION 3.16)
project(tried LANGUAGES NONE)
include({function})
add_library(tried INTERFACE)
{property}
include_where_built(tried)
get_target_property(found tried INTERFACE_INCLUDE_DIRECTORIES)
message(STATUS "found: ${{found}}")
install(TARGETS tried EXPORT tried)
install(EXPORT tried DESTINATION share)
"""


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize(
    ("named", "found"),
    [
        ([], "found-NOTFOUND"),  # upstream's generator links all privately
        (["{source}/env/numpy"], "$<BUILD_INTERFACE:{source}/env/numpy>"),
        (["/usr/numpy", "$<INSTALL_INTERFACE:include>"], "$<BUILD_INTERFACE:/usr/numpy>;$<INSTALL_INTERFACE:include>"),
    ],
)
def test_whatever_headers_the_library_names_the_package_configures(
    named: list[str], found: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    folders = " ".join(f'"{name}"' for name in named).format(source=source)
    text = f"target_include_directories(tried INTERFACE {folders})" if named else ""
    (source / "CMakeLists.txt").write_text(PROJECT.format(function=FUNCTION, property=text))
    done = subprocess.run(
        ["cmake", "-S", source, "-B", tmp_path / "build"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"found: {found.format(source=source)}\n" in done.stdout
