"""The speed that a drive is played at."""

from __future__ import annotations

import pytest

from bevdistill_ros.training.demo.pace import suitable_rate


@pytest.mark.parametrize(
    ("milliseconds", "rate"), [(1, 1.0), (39, 1.0), (41, 0.5), (79, 0.5), (81, 0.25), (170, 0.1), (5000, 0.1)]
)
def test_a_slow_machine_gets_more_time(milliseconds: float, rate: float) -> None:
    assert suitable_rate(milliseconds / 1e3, 0.1) == rate
