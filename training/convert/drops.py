"""The account of everything in a bag that did not become part of the dataset, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Drop:
    """Things of one kind that were left out for one reason.

    Attributes:
        where: topic or channel.
        what: 'keyframe', 'image', 'annotation', ...
        reason: in plain words, without numbers of its own.
        count: how many.
        first: stamp (ns) of the first one.
    """

    where: str
    what: str
    reason: str
    count: int
    first: int


class Drops:
    """Counts by place, kind and reason."""

    def __init__(self) -> None:
        self._drops: dict[tuple[str, str, str], Drop] = {}

    def add(self, where: str, what: str, reason: str, stamp: int, count: int = 1) -> None:
        """Count something that is left out."""
        drop = self._drops.setdefault((where, what, reason), Drop(where, what, reason, 0, stamp))
        drop.count += count

    def count(self, what: str) -> int:
        """How many things of a kind were left out."""
        return sum(drop.count for drop in self._drops.values() if drop.what == what)

    def merge(self, other: Drops) -> None:
        """Count what another account holds."""
        for drop in other._drops.values():
            self.add(drop.where, drop.what, drop.reason, drop.first, drop.count)

    def rows(self) -> list[dict[str, Any]]:
        """Plain data, most frequent first."""
        ordered = sorted(self._drops.values(), key=lambda drop: (-drop.count, drop.where, drop.what, drop.reason))
        return [
            {"where": d.where, "what": d.what, "reason": d.reason, "count": d.count, "first_stamp_ns": d.first}
            for d in ordered
        ]


def table(rows: list[dict[str, Any]]) -> str:
    """The account for people: a line each."""
    cells = [(str(row["count"]), row["what"], row["where"], row["reason"]) for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(3)] if cells else []
    return "\n".join(
        f"  {count:>{widths[0]}} {what:<{widths[1]}}  {where:<{widths[2]}}  {reason}"
        for count, what, where, reason in cells
    )
