"""`pip install .` on a machine without ROS 2. Under ROS 2 the package is built by colcon, from CMakeLists.txt.

The metadata are in pyproject.toml; what needs code is that `training/` and `config/` are installed below the module.
"""

from setuptools import find_namespace_packages, setup

MODULE = "bevdistill_ros"


def below(folder: str, module: str) -> list[str]:
    """`module`, which lies in `folder`, and all modules below it."""
    return [module, *(f"{module}.{name}" for name in find_namespace_packages(folder, exclude=["*__pycache__*"]))]


config = f"{MODULE}.share.config"

setup(
    packages=[*below(MODULE, MODULE), *below("training", f"{MODULE}.training"), config],
    package_dir={MODULE: MODULE, f"{MODULE}.training": "training", config: "config"},
    package_data={config: ["**/*"]},
    zip_safe=False,
)
