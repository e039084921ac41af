"""The supervisor: starts a worker, beats for it, and certifies its end."""
