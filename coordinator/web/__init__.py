"""HTTP for whatever listens: one way to accept, one set of bounds, one gate. It knows nothing of sessions and workers."""
