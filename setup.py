"""`pip install .` on a machine without ROS 2. Under ROS 2 the package is built by colcon, from CMakeLists.txt.

The metadata are in pyproject.toml; what needs code is that `training/`, `config/` and `weights/` are installed below the
module.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

MODULE = "bevdistill_ros"


def below(folder: str, module: str) -> list[str]:
    """`module`, which lies in `folder`, and all modules below it."""
    return [module, *(f"{module}.{name}" for name in find_namespace_packages(folder, exclude=["*__pycache__*"]))]


# A tree without weights is of use, too: paths.model_path says what is missing.
shared = {f"{MODULE}.share.{folder}": folder for folder in ("config", "weights") if Path(folder).is_dir()}

setup(
    packages=[*below(MODULE, MODULE), *below("training", f"{MODULE}.training"), *shared],
    package_dir={MODULE: MODULE, f"{MODULE}.training": "training", **shared},
    package_data={name: ["**/*"] for name in shared},
    zip_safe=False,
)
