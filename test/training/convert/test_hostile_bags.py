"""Bags whose metadata and messages lie."""

from __future__ import annotations

import numpy as np
import pytest

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.convert.bag import Bag
from bevdistill_ros.training.convert.point_clouds import LONGEST_TURN, _times
from bevdistill_ros.training.data.bags import BagWriter, custom_data


@pytest.fixture
def bag(tmp_path):
    path = tmp_path / "bags" / "drive"
    with BagWriter(path) as writer:
        writer.add_topic("/a", "std_msgs/msg/Empty")
        writer.write("/a", 10**9, writer.messages.make("std_msgs/msg/Empty", structure_needs_at_least_one_member=0))
    return path


def test_files_are_read_from_the_bag_alone(bag, tmp_path) -> None:
    """The names in the metadata count without their folders, so that a file beside the bag is not opened."""
    metadata = bag / "metadata.yaml"
    (name,) = (path.name for path in bag.iterdir() if path.suffix == ".mcap")
    for hostile in (f"../../{name}", f"/etc/{name}"):
        metadata.write_text(metadata.read_text().replace(f"- {name}", f"- {hostile}", 1))
        assert hostile in metadata.read_text()
        with Bag(bag) as opened:
            assert opened.counts == {"/a": 1}  # of the bag's own file
        metadata.write_text(metadata.read_text().replace(hostile, name))
    (tmp_path / "bags" / "secret.mcap").write_bytes((bag / name).read_bytes())
    metadata.write_text(metadata.read_text().replace(name, "../secret.mcap"))
    with pytest.raises(UserError, match=r"drive: cannot be read"), Bag(bag):
        pass


def test_metadata_of_aliases_is_refused(bag) -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n" for before, after in zip("abcdefgh", "bcdefghi")
    )
    (bag / "metadata.yaml").write_text(text)
    with pytest.raises(UserError, match=r"metadata\.yaml: is not YAML: its aliases"), Bag(bag):
        pass
    with pytest.raises(UserError, match=r"metadata\.yaml: is not YAML: its aliases"):
        custom_data(bag)


@pytest.mark.parametrize("value", [1e300, -1e300, 9.3e18, -9.3e18, np.inf, np.nan])
def test_times_of_points_beyond_any_clock_are_none(value: float) -> None:
    times = _times(np.array([0.0, value]), 1_700_000_000 * 10**9)
    assert times is None or np.abs(times).max() <= LONGEST_TURN
    assert times is None or (times >= -LONGEST_TURN).all()
