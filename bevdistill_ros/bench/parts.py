"""A network's stages, one after the other: where each ends is told while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bevdistill_ros.models.bevformer import BevFormer
from bevdistill_ros.models.simulated import SimulatedNet
from bevdistill_ros.models.student import Student

BACKBONE, LIFT, BEV_ENCODER, HEAD = PARTS = ("backbone", "lift", "bev_encoder", "head")


@contextmanager
def told_of_parts(network: Student, begin: Callable[[], None], end: Callable[[str], None]) -> Iterator[None]:
    """While this is open, a run of the network calls ``begin()`` when it starts and ``end(part)`` after each part.

    But for the last one, HEAD, which ends with the run.

    The backbone begins with pixels and has its pyramid; the lift is what makes BEV features of it; a fuser belongs to the BEV
    encoder. BEVFormer's encoder is its lift, and it has no other.
    """
    handles = [network.neck.register_forward_hook(lambda *_: end(BACKBONE))]
    if isinstance(network, BevFormer):
        first_of_heads = network.head if network.head is not None else network.queries
        handles.append(first_of_heads.register_forward_pre_hook(lambda *_: end(LIFT)))
    else:
        first = network.fuser if isinstance(network, SimulatedNet) else network.bev_encoder
        handles.append(first.register_forward_pre_hook(lambda *_: end(LIFT)))
        handles.append(network.bev_encoder.register_forward_hook(lambda *_: end(BEV_ENCODER)))
    handles.append(network.pixels.register_forward_pre_hook(lambda *_: begin()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_in_parts(
    network: Student, run: Callable[[], Any], begin: Callable[[], None], end: Callable[[str], None]
) -> Any:
    """What ``run``, which runs the network once, returns; ``end`` is told of all parts."""
    with told_of_parts(network, begin, end):
        outputs = run()
    end(HEAD)
    return outputs
