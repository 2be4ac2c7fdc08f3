#!/usr/bin/env bash
# See that what pip cannot bring is there: a C++ compiler, Python with venv and headers, and what MuJoCo draws with.
# Usage: system_packages.sh PYTHON. Missing packages are installed with apt-get where that is possible without asking;
# otherwise one line says what to install. Without the last, only the verb `world` does not work: that is no error.
set -euo pipefail
python=$1
here=$(dirname "$(realpath "$0")")

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

# EGL draws on a GPU where there is one and in software otherwise. (OSMesa would do as well, but new distributions lack it.)
missing_renderer() {
    "$python" "$here/can_render.py" 2>/dev/null || echo libegl1 libgl1-mesa-dri libopengl0
}

if command -v apt-get >/dev/null; then
    if [ "$(id -u)" -eq 0 ]; then
        as_root=(env DEBIAN_FRONTEND=noninteractive)
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n env DEBIAN_FRONTEND=noninteractive)
    fi
fi

# install PACKAGES SEVERITY: one line tells, after that word, what is to be done where it cannot be done here.
install() {
    if [ -z "${as_root+set}" ]; then
        echo "$2: missing system packages; run: sudo apt-get install $1" >&2
        return 1
    fi
    echo "installing system packages: $1"
    # shellcheck disable=SC2086 # one word a package
    if ! "${as_root[@]}" apt-get update -qq || ! "${as_root[@]}" apt-get install -y -qq --no-install-recommends $1; then
        echo "$2: apt-get could not install: $1" >&2
        return 1
    fi
}

missing=$(missing_packages | tr '\n' ' ')
if [ -n "${missing// /}" ]; then
    install "$missing" error || exit 1
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "${missing// /}" ] || { echo "error: still missing after apt-get: $missing" >&2; exit 1; }
fi

renderer=$(missing_renderer)
if [ -n "$renderer" ]; then
    install "$renderer" "note: \`world\` cannot draw here" || true
fi
