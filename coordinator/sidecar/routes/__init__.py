"""The handlers of the interface, by subject: each carries its own route. A new operation is a method in one of these files."""
