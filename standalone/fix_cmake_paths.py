"""Point the ROS 2 wheels' CMake files at the Python that they are installed for.

The wheels are built in a container whose Python lies under /opt/python/cpXYZ-cpXYZ, and the CMake files that they
install carry that container's include and library paths. Run this with the Python of the virtual environment, after
every installation; files that are right already are left alone.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

BUILD_MACHINE_INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+")
BUILD_MACHINE_LIBRARY = re.compile(r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+")


def fixed(text: str, include: str, library: str) -> str:
    """`text` with the build machine's Python include and library folders replaced by `include` and `library`."""
    text = BUILD_MACHINE_INCLUDE.sub(lambda _: include, text)
    return BUILD_MACHINE_LIBRARY.sub(lambda _: library, text)


def main() -> int:
    include = sysconfig.get_path("include")
    library = sysconfig.get_path("stdlib", vars={"installed_base": sys.prefix, "base": sys.prefix})
    if not Path(include, "Python.h").is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        print(
            f"error: {include}/Python.h is missing: install Python's headers "
            f"(Debian and Ubuntu: apt-get install python{version}-dev)",
            file=sys.stderr,
        )
        return 1
    changed = 0
    for folder in (Path(sys.prefix, "share"), Path(sys.prefix, "lib", "cmake")):
        for path in sorted(folder.rglob("*.cmake")):
            before = path.read_text(encoding="utf-8", errors="surrogateescape")
            after = fixed(before, include, library)
            if after != before:
                scratch = path.with_name(path.name + ".part")
                scratch.write_text(after, encoding="utf-8", errors="surrogateescape")
                os.replace(scratch, path)
                changed += 1
    print(f"{changed} CMake files now name {include}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
