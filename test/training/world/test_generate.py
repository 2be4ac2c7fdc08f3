"""The verb `world`, with drives that need no renderer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_drive
import pytest

pytest.importorskip("rosbags")

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.data.bags import is_bag
from bevdistill_ros.training.world.generate import main
from bevdistill_ros.training.world.nuscenes_writer import VERSION, shard_path

SHORT = ("--duration", "0.5", "--image-width", "160")


def world(*options: object, simulate=fake_drive.simulate, backend=fake_drive.no_backend) -> int:
    return main([*SHORT, *map(str, options)], simulate, backend)


def refuse() -> str:
    raise UserError("nothing can draw here")


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def drive_names(root: Path) -> list[str]:
    return [row["name"] for row in json.loads((root / VERSION / "scene.json").read_text())]


def test_one_rendering_gives_a_dataset_and_bags(tmp_path):
    figures = tmp_path / "figures.json"
    options = ("--output", tmp_path / "data", "--bags", tmp_path / "bags", "--drives", 2, "--json", figures)
    assert world(*options, "--split", "night", "--seed", 7) == 0
    names = ["night-7-0000", "night-7-0001"]
    assert drive_names(tmp_path / "data") == names
    assert all(is_bag(tmp_path / "bags" / name) for name in names)
    assert json.loads((tmp_path / "data" / VERSION / "splits.json").read_text()) == {"night": names}
    found = json.loads(figures.read_text())
    assert found["drives"] == {"made": names, "kept": [], "failed": []}
    assert (found["split"], found["seed"], found["duration_s"], found["image_width"]) == ("night", 7, 0.5, 160)
    assert found["keyframes"] == 2 * 2
    assert found["annotations"] == {"animal": 4, "barrier": 2, "car": 4, "pedestrian": 2, "truck": 4}
    written = [p for folder in ("samples", "maps") for p in (tmp_path / "data" / folder).rglob("*.*")]
    written += [p for name in names for p in (tmp_path / "bags" / name).iterdir()]
    assert found["bytes"] == sum(p.stat().st_size for p in written)
    assert found["s_per_keyframe"] == pytest.approx(found["seconds"] / 4, abs=0.01)


def test_every_drive_has_its_own_seed_and_any_parallelism_gives_the_same_bytes(tmp_path):
    assert world("--output", tmp_path / "one", "--drives", 3, "--workers", 1) == 0
    assert world("--output", tmp_path / "three", "--drives", 3, "--workers", 3) == 0
    assert files(tmp_path / "one") == files(tmp_path / "three")
    scenes = json.loads((tmp_path / "one" / VERSION / "scene.json").read_text())
    assert len({scene["description"] for scene in scenes}) == 3  # the fake drive tells its seed there
    assert world("--output", tmp_path / "other", "--drives", 1, "--split", "world_val") == 0
    (other,) = json.loads((tmp_path / "other" / VERSION / "scene.json").read_text())
    assert other["description"] not in {scene["description"] for scene in scenes}


def test_running_again_keeps_what_is_there_and_another_split_adds_to_it(tmp_path):
    figures = tmp_path / "figures.json"
    data = tmp_path / "data"
    assert world("--output", data, "--drives", 1) == 0
    first = shard_path(data, "world_train-0-0000").stat().st_mtime_ns
    assert world("--output", data, "--drives", 2, "--json", figures) == 0
    assert json.loads(figures.read_text())["drives"]["kept"] == ["world_train-0-0000"]
    assert shard_path(data, "world_train-0-0000").stat().st_mtime_ns == first
    assert world("--output", data, "--drives", 1, "--split", "world_val") == 0
    assert drive_names(data) == ["world_train-0-0000", "world_train-0-0001", "world_val-0-0000"]


def test_bags_can_be_added_to_a_dataset_that_is_there(tmp_path):
    assert world("--output", tmp_path / "data", "--drives", 1) == 0
    before = files(tmp_path / "data")
    assert world("--output", tmp_path / "data", "--bags", tmp_path / "bags", "--drives", 1) == 0
    assert files(tmp_path / "data") == before
    assert is_bag(tmp_path / "bags" / "world_train-0-0000")
    # Nothing is left to do: nothing needs to be drawn.
    everything = ("--output", tmp_path / "data", "--bags", tmp_path / "bags", "--drives", 1)
    assert world(*everything, backend=refuse) == 0
    with pytest.raises(UserError, match="nothing can draw here"):
        world("--output", tmp_path / "data", "--drives", 2, backend=refuse)


@pytest.mark.parametrize("kind", ["--output", "--bags"])
def test_other_settings_than_those_of_an_existing_drive_are_refused(tmp_path, kind):
    assert world(kind, tmp_path / "out", "--drives", 1) == 0
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match=r"world_train-0-0000.* was made with colours natural, not grey"):
        world(kind, tmp_path / "out", "--drives", 2, "--colours", "grey")
    assert files(tmp_path / "out") == before


def test_drives_that_fail_are_named_and_the_rest_is_made(tmp_path, capfd):
    figures = tmp_path / "figures.json"
    options = ("--output", tmp_path / "data", "--bags", tmp_path / "bags", "--drives", 4, "--json", figures)
    assert world(*options, "--workers", 2, simulate=fake_drive.simulate_faults) == 1
    error = capfd.readouterr().err
    assert "error: drive world_train-0-0001 (seed 0, " in error
    assert "RuntimeError: out of tarmac" in error
    assert "error: drive world_train-0-0002 (seed 0, " in error
    assert "its process ended with signal SIGKILL" in error
    good = ["world_train-0-0000", "world_train-0-0003"]
    assert drive_names(tmp_path / "data") == good
    assert sorted(path.name for path in (tmp_path / "bags").iterdir() if is_bag(path)) == good
    found = json.loads(figures.read_text())["drives"]
    assert found["made"] == good
    assert {row["name"]: row["seed"][::2] for row in found["failed"]} == {
        "world_train-0-0001": [0, 1],
        "world_train-0-0002": [0, 2],
    }
    # Once the cause is gone, the same command makes up for them, and what the killed one left does not matter.
    assert world(*options) == 0
    assert world("--output", tmp_path / "whole", "--drives", 4) == 0
    assert files(tmp_path / "data") == files(tmp_path / "whole")
    assert not list((tmp_path / "bags").glob("*.partial"))


ENDLESS = """
import signal
import sys
sys.path.append({here!r})
import fake_drive
from bevdistill_ros.training.world.generate import main
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored otherwise where the tests run in the background
    sys.exit(main(sys.argv[1:], fake_drive.simulate_endless, fake_drive.no_backend))
"""


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_keeps_what_is_finished(tmp_path, blow):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS.format(here=str(Path(fake_drive.__file__).parent)))
    stuck, data, bags = tmp_path / "stuck", tmp_path / "data", tmp_path / "bags"
    options = [*SHORT, "--output", str(data), "--bags", str(bags), "--drives", "2", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, str(script), *options],
        env={**os.environ, "FAKE_DRIVE_STUCK": str(stuck)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not stuck.exists():
            assert time.monotonic() < deadline and process.poll() is None, process.communicate()
            time.sleep(0.02)
        # As a terminal does: to all processes of the command at once.
        os.killpg(process.pid, blow)
        output, error = process.communicate(timeout=60)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if blow == signal.SIGINT:
        assert process.returncode == 1
        assert error.strip() == "interrupted: drives that were finished are kept; the same command makes the rest"
        assert "1 drives made" in output
        assert drive_names(data) == ["world_train-0-0000"]
        assert not list(bags.glob("*.partial"))
    assert world("--output", data, "--bags", bags, "--drives", 2, backend=fake_drive.no_backend) == 0
    assert world("--output", tmp_path / "whole", "--drives", 2) == 0
    assert files(data) == files(tmp_path / "whole")
    assert sorted(path.name for path in bags.iterdir() if not path.name.startswith(".")) == drive_names(data)


def test_two_commands_do_not_write_into_one_folder_at_once(tmp_path):
    from bevdistill_ros.training.locks import locked

    with (
        locked(tmp_path / "data" / ".world.lock"),
        pytest.raises(UserError, match="another `world` command is writing there"),
    ):
        world("--output", tmp_path / "data")
    assert world("--output", tmp_path / "data", "--drives", 1) == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "name a dataset with --output, a folder for bags with --bags"),
        (("--output", "x", "--split", "val"), "--split val: means scenes of nuScenes itself.*world_val"),
        (("--output", "x", "--split", "../up"), "--split '../up': must be of letters"),
        (("--output", "x", "--duration", "nan"), "duration nan s: must be between"),
        (("--output", "x", "--image-width", "100"), "image width 100: must be"),
    ],
)
def test_options_that_cannot_be_are_explained(options, complaint):
    with pytest.raises(UserError, match=complaint):
        main(options, fake_drive.simulate, refuse)


@pytest.mark.parametrize("options", [("--drives", "0"), ("--workers", "0"), ("--seed", "-1"), ("--sweeps", "some")])
def test_numbers_and_choices_are_checked(options, capsys):
    with pytest.raises(SystemExit) as status:
        main(["--output", "x", *options], fake_drive.simulate, refuse)
    assert status.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:
        world("--output", tmp_path / "file" / "data")
    assert "file" in error.value.filename
