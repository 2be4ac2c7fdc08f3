"""What rclpy keeps of subscriptions, publishers and timers that have been destroyed."""

from __future__ import annotations

from rclpy.callback_groups import CallbackGroup


def forget_destroyed(group: CallbackGroup) -> None:
    """Drop what ``group`` remembers of entities that are no more.

    rclpy adds a weak reference to a callback group for everything that is created in it, and never takes one away:
    some 12 KB for each time round the lifecycle of a node of six cameras, for as long as the node lives. What was
    destroyed a moment ago may still be held by the executor and goes with the next call.
    """
    entities = group.entities
    entities.difference_update([reference for reference in tuple(entities) if reference() is None])
