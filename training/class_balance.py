"""Class-balanced grouping and sampling (CBGS, Zhu et al. 2019, section 3.2): samples with rare classes are drawn more often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bevdistill_ros.errors import UserError


def samples_of_classes(present: Sequence[frozenset[int]]) -> list[np.ndarray]:
    """Indices of the samples that hold each class, for every class that any of them holds.

    Args:
        present: the classes of each sample.

    Raises:
        UserError: no sample holds any.
    """
    classes = sorted(frozenset().union(*present))
    if not classes:
        raise UserError("training.class_balance: the chosen samples hold no object of any class")
    return [np.array([i for i, own in enumerate(present) if label in own]) for label in classes]


def round_length(groups: Sequence[np.ndarray]) -> int:
    """Draws in a round: as many as there are samples in all groups together, down to a multiple of the number of groups."""
    return sum(map(len, groups)) // len(groups) * len(groups)


def balanced_order(groups: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """One round of draws: from each class's samples as many as from every other's, with repetitions, all in random order."""
    each = round_length(groups) // len(groups)
    return rng.permutation(np.concatenate([rng.choice(group, each) for group in groups]))
