"""The learning rate over a training, as a factor on the configured one: a pure function of the step."""

from __future__ import annotations

import math

from bevdistill_ros.training.config import Schedule, TrainingConfig

RISE = 0.3
"""Share of the steps in which ``one_cycle`` rises."""

START = 1 / 25
"""Where ``one_cycle`` starts."""

END = 4e-6
"""Where ``one_cycle`` ends: 1/10000 of its start."""


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """Factor on ``config.learning_rate`` at ``step``, counted from 0; steps after the last are as the last.

    - cosine: half a cosine from 1 to ``cosine_to``;
    - one_cycle (Smith & Topin 2017): half a cosine up from START to 1 over the first RISE of the steps, then one down to END;
    - constant: 1.

    Each is multiplied by a linear rise from ``warmup_from`` to 1 over the first ``warmup_steps``.
    """
    risen = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    warm = config.warmup_from + (1.0 - config.warmup_from) * risen
    done = min(step / config.steps, 1.0)
    if config.schedule is Schedule.COSINE:
        return warm * _half_cosine(1.0, config.cosine_to, done)
    if config.schedule is Schedule.ONE_CYCLE:
        if done < RISE:
            return warm * _half_cosine(START, 1.0, done / RISE)
        return warm * _half_cosine(1.0, END, (done - RISE) / (1 - RISE))
    return warm


def _half_cosine(start: float, end: float, done: float) -> float:
    """From ``start`` (done 0) to ``end`` (done 1), flat at both."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
