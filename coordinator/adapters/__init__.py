"""Adapters: the library inside other people's frameworks. Each needs its extra; nothing else of the package imports them."""
