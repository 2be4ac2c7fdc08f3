#!/usr/bin/env bash
# See that what pip cannot bring is there: a C++ compiler, and Python with venv and headers.
# Usage: system_packages.sh PYTHON. Missing packages are installed with apt-get where that is possible without asking;
# otherwise one line says what to install.
set -euo pipefail
python=$1

missing_packages() {
    command -v g++ >/dev/null || echo g++
    if ! command -v "$python" >/dev/null; then
        echo "$(basename "$python")" "$(basename "$python")-venv" "$(basename "$python")-dev"
        return
    fi
    local version prefix
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "error: $python is Python $version, but 3.10 or later is needed: say make PYTHON=python3.X" >&2
        exit 1
    }
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
    prefix=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$prefix/Python.h" ] || echo "python$version-dev"
}

missing=$(missing_packages | tr '\n' ' ')
[ -n "${missing// /}" ] || exit 0

if command -v apt-get >/dev/null; then
    if [ "$(id -u)" -eq 0 ]; then
        as_root=(env DEBIAN_FRONTEND=noninteractive)
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n env DEBIAN_FRONTEND=noninteractive)
    fi
fi
if [ -z "${as_root+set}" ]; then
    echo "error: missing system packages; run: sudo apt-get install $missing" >&2
    exit 1
fi
echo "installing system packages: $missing"
# shellcheck disable=SC2086 # one word a package
if ! "${as_root[@]}" apt-get update -qq || ! "${as_root[@]}" apt-get install -y -qq --no-install-recommends $missing; then
    echo "error: apt-get could not install: $missing" >&2
    exit 1
fi
missing=$(missing_packages | tr '\n' ' ')
[ -z "${missing// /}" ] || { echo "error: still missing after apt-get: $missing" >&2; exit 1; }
