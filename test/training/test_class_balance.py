"""Class-balanced sampling: each class is drawn as often, seeded, and the same wherever a training goes on."""

from __future__ import annotations

import numpy as np
import pytest

from bevdistill_ros.config import CLASS_NAMES
from bevdistill_ros.errors import UserError
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.class_balance import balanced_order, round_length, samples_of_classes
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes
from bevdistill_ros.training.loader import AugmentedSamples, StepSampler, make_loader

# Class 0 is everywhere, 1 in a tenth of the samples, 5 in one of them alone; the last ten samples hold nothing.
PRESENT = [frozenset({0} | ({1} if i % 10 == 3 else set()) | ({5} if i == 42 else set())) for i in range(90)]
PRESENT += [frozenset()] * 10


def test_groups_are_the_samples_of_each_class() -> None:
    groups = samples_of_classes(PRESENT)
    assert [group.tolist() for group in groups] == [list(range(90)), list(range(3, 90, 10)), [42]]
    with pytest.raises(UserError, match="no object of any class"):
        samples_of_classes([frozenset()])


def test_a_round_draws_from_each_class_equally_often() -> None:
    groups = samples_of_classes(PRESENT)
    assert round_length(groups) == 99  # of the 90 + 9 + 1 down to a multiple of 3
    order = balanced_order(groups, np.random.default_rng(0))
    assert len(order) == 99 and order.max() < 90
    # 33 draws are for class 5; those for class 0 may hit its sample by chance.
    assert 33 <= (order == 42).sum() <= 36
    with_rare = sum(1 in PRESENT[i] for i in order)
    assert 33 <= with_rare <= 33 + 12  # 33, and a tenth of the draws for class 0, against 9.9 without
    assert np.abs(np.diff(np.flatnonzero(order == 42))).max() < 30  # mixed, not class by class


def test_the_order_does_not_depend_on_where_it_starts() -> None:
    groups = samples_of_classes(PRESENT)
    whole = list(StepSampler(100, 250, seed=1, groups=groups))
    assert list(StepSampler(100, 250, seed=1, start=130, groups=groups)) == whole[130:]
    assert [draw for _, draw in whole] == list(range(250))
    first, second = ([index for index, _ in whole[start : start + 99]] for start in (0, 99))
    assert first != second and list(StepSampler(100, 250, seed=2, groups=groups)) != whole


def test_a_training_draws_balanced(tiny_nuscenes) -> None:
    """By the classes of the boxes that it learns from."""
    nusc = open_nuscenes(tiny_nuscenes, "v1.0-mini")
    samples = NuScenesSamples(nusc, choose_samples(nusc), CLASS_NAMES, None)
    for i in range(len(samples)):
        assert samples.classes(i) == frozenset(samples.geometry(i).boxes.labels.tolist())
    options = [
        "training.batch_size=2",
        "training.steps=40",
        "training.image_supervision={}",
        "training.class_balance=true",
    ]
    config = load_config(share_directory() / "config" / "models" / "nano.yaml", options)
    loader = make_loader(AugmentedSamples(samples, config), config, 0, ("K",))
    drawn = [index for step in loader.batch_sampler for index, _ in step]
    groups = samples_of_classes([samples.classes(i) for i in range(len(samples))])
    assert drawn == [index for index, _ in StepSampler(8, 80, config.training.seed, groups=groups)]
