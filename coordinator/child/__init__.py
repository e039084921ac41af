"""What a child process of a worker uses: one call that its parent owns, over a channel to the parent. It needs no Redis."""

from coordinator.child.session import ChildSession

__all__ = ["ChildSession"]
