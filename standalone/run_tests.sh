#!/usr/bin/env bash
# Run pytest on the installed tree. Usage: run_tests.sh PYTHON REPOSITORY [PYTEST ARGUMENTS]...
# It runs from an empty folder, and with -P where Python has it, so that the source folders are not importable by
# accident; and on a ROS domain of its own, on this machine only, so that parallel runs do not hear each other.
set -euo pipefail
python=$1 repository=$2
shift 2

for domain in $(shuf -i 1-101); do
    lock=${TMPDIR:-/tmp}/ros_domain_$domain.$(id -u).lock
    exec 9>"$lock"
    if flock -n 9; then break; fi
done
export ROS_DOMAIN_ID=$domain
if [ "${ROS_DISTRO:-}" = humble ]; then
    export ROS_LOCALHOST_ONLY=1
else
    export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
fi
export ROS_LOG_DIR=$repository/build/ros_log
export PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

mkdir -p "$repository/build/pytest"
cd "$repository/build/pytest"
[ $# -gt 0 ] || set -- "$repository/test"
# a shell's background job ignores SIGINT, and would hand that down to the processes that tests interrupt
exec env --default-signal=INT "$python" -m pytest -c "$repository/pyproject.toml" --rootdir "$repository" -p no:cacheprovider "$@"
