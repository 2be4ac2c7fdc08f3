# Source this in bash after `make build`, on a machine without a ROS 2 install: the environment, the built packages, and
# the command `bevdistill VERB` in place of `ros2 run bevdistill_ros VERB`. VENV says where the environment lies, if not
# in .venv.
_bevdistill_root=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")
_bevdistill_venv=$(realpath "${VENV:-$_bevdistill_root/.venv}")
if [ ! -f "$_bevdistill_venv/.made_from" ] || [ ! -f "$_bevdistill_root/install/setup.bash" ]; then
    echo "error: $_bevdistill_venv or $_bevdistill_root/install is missing: run 'make build' first" >&2
    unset _bevdistill_root _bevdistill_venv
    return 1
fi
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONPATH COLCON_PREFIX_PATH
export PATH="$_bevdistill_venv/bin:$PATH" AMENT_PREFIX_PATH="$_bevdistill_venv" CMAKE_PREFIX_PATH="$_bevdistill_venv"
source "$_bevdistill_root/install/setup.bash"
bevdistill() {
    python -c 'import sys; from bevdistill_ros.cli import main; sys.exit(main(sys.argv[1:]))' "$@"
}
unset _bevdistill_root _bevdistill_venv
