#!/usr/bin/env bash
# Make the virtual environment that stands in for a ROS 2 install.
# Usage: environment.sh PYTHON VENV TORCH [PIP OPTIONS FOR TORCH]...
# It is made, or brought up to date, only when the requirements or the torch asked for have changed; what it was made from is
# written down last, so that a failed installation starts over. An environment of another Python, or a folder that is no
# environment of ours, is left alone: the user decides what becomes of it.
set -euo pipefail
python=$1 venv=$2 torch=$3
shift 3
here=$(dirname "$(realpath "$0")")
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONPATH PYTHONHOME

version=$("$python" -c 'import sys; print(sys.version)')
wanted=$({
    echo "$version" "$torch" "$@"
    cat "$here/requirements.txt" "$here/requirements-no-deps.txt" "$here/fix_cmake_paths.py"
} | sha256sum)
made_from=$venv/.made_from
[ "$(cat "$made_from" 2>/dev/null)" != "$wanted" ] || exit 0

# The file is there from the first moment on, also while an installation is unfinished: it marks the environment as ours.
if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -e "$made_from" ]; then
    echo "error: $venv is not an environment that this Makefile has made: name another with VENV=" >&2
    exit 1
fi
mkdir -p "$venv"
[ -e "$made_from" ] || echo unfinished >"$made_from"
if [ ! -x "$venv/bin/pip" ]; then
    echo "making $venv with Python ${version%% *}"
    "$python" -m venv "$venv"
fi
found=$("$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null || true)
if [ "$found" != "$version" ]; then
    echo "error: $venv is of Python ${found%% *}, but $python is Python ${version%% *} or another build of it:" \
        "name the same with PYTHON=, or another environment with VENV=, or remove $venv" >&2
    exit 1
fi
echo unfinished >"$made_from"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check install --no-input --quiet "$@"; }
# torch first: the rest then takes the one that is there, CPU or CUDA
if [ -n "$torch" ]; then
    echo "installing $torch"
    pip "$@" "$torch"
fi
echo "installing $here/requirements.txt (some minutes)"
pip -r "$here/requirements.txt"
pip --no-deps -r "$here/requirements-no-deps.txt"
"$venv/bin/python" "$here/fix_cmake_paths.py"
"$venv/bin/python" -c 'import cv2, lightning, nuscenes, rclpy, torch' # a broken installation shows here
echo "$wanted" >"$made_from"
