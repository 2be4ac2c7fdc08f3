"""Inputs that nobody would send by mistake alone: valid ones with something changed, and numbers at the edges of their types."""

from __future__ import annotations

import random
from typing import Any

FLOATS = (
    0.0, -0.0, 1.0, -1.0, 1e-300, 5e-324, 1e-9, 1e-3, 1e6, 1e9, 1e18, 1e300, 1.7976931348623157e308, -1e300, float("inf"),
    float("-inf"), float("nan"),
)  # fmt: skip
COUNTS = (0, 1, 2, 7, 8, 255, 256, 4096, 65_534, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
TEXTS = (
    "",
    "/",
    "..",
    "a",
    "a" * 300,
    "\x00",
    "\ud800",
    "é",
    "base_link",
    "camera",
    "NaN",
    "1e999",
    "../../etc/passwd",
    "%s%n",
)


def some_float(rng: random.Random) -> float:
    """A number at an edge, or an ordinary one."""
    return rng.choice(FLOATS) if rng.random() < 0.6 else rng.uniform(-2000.0, 2000.0)


def some_json(rng: random.Random, depth: int = 3) -> Any:
    """Any JSON value, also such as Python's parser alone takes for one."""
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return some_float(rng)
    if kind == 1:
        return rng.choice(COUNTS) * rng.choice((1, 1, -1)) * 10 ** rng.choice((0, 0, 0, 30))
    if kind == 2:
        return rng.choice(TEXTS)
    if kind < 6:
        return rng.choice((None, True, False, [], {}))
    items = [some_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    return items if kind == 6 else {rng.choice(TEXTS): item for item in items}


def changed_json(rng: random.Random, value: Any) -> Any:
    """The same value with something at one place of it changed, taken away or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        what = rng.random()
        if what < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if what < 0.2:
            return {**value, rng.choice((*TEXTS, *value)): some_json(rng)}
        return {**value, key: changed_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :] if rng.random() < 0.5 else value + value[: at + 1]
        return [changed_json(rng, item) if place == at else item for place, item in enumerate(value)]
    if type(value) is int and rng.random() < 0.7:
        return value + rng.choice((-1, 1)) * rng.choice(COUNTS)
    if type(value) is float and rng.random() < 0.7:
        return value * rng.choice((-1.0, 0.5, 2.0, 8.0, 1e3, 1e-3, *FLOATS))
    return some_json(rng)


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """The same bytes with up to six places of them changed; seldom none of them at all, but others."""
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(400))
    content = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(content) + 1)
        what = rng.randrange(7)
        if what == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif what == 1 and at < len(content):
            content[at] = rng.choice((0x00, 0x01, 0x7F, 0x80, 0xC0, 0xD8, 0xFE, 0xFF))
        elif what == 2:
            size, order = rng.choice((2, 4, 8)), rng.choice(("big", "little"))
            content[at : at + size] = (rng.choice(COUNTS) % 256**size).to_bytes(size, order)
        elif what == 3:
            content[at:at] = rng.randbytes(rng.randrange(12))
        elif what == 4:
            del content[at : at + rng.randrange(40)]
        elif what == 5:
            content[at:at] = content[max(0, at - rng.randrange(60)) : at]
        elif rng.random() < 0.3:
            del content[at:]
    return bytes(content)
