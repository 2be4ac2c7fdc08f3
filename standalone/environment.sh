#!/usr/bin/env bash
# Make the virtual environment that stands in for a ROS 2 install.
# Usage: environment.sh PYTHON VENV TORCH [PIP OPTIONS FOR TORCH]...
# It is made again, or brought up to date, only when the requirements, the Python or the torch asked for have changed;
# what it was made from is written down last, so that a failed installation starts over.
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
rm -f "$made_from"

if [ "$("$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null)" != "$version" ]; then
    echo "making $venv with Python ${version%% *}"
    "$python" -m venv --clear "$venv"
fi
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
