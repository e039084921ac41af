"""Faults of a sidecar, and of workers behind one: how long their callers hear nothing, and whether the promises are kept."""

from __future__ import annotations

from collections.abc import Iterator

from tests.sidecar.example_site import Site
from tests.sidecar.examples import LANGUAGES
from tests.sidecar.test_example_faults import FAULTS

__all__ = ["rows"]


def rows() -> Iterator[tuple[list[object], bool]]:
    """One row a fault, and whether all promises were kept."""
    for fault, (cause, settings) in FAULTS.items():
        site = Site(settings)
        said = "all kept"
        try:
            cause(site)
            site.wait_until_served()
            site.check()
        except AssertionError as error:
            said = str(error).partition("\n")[0]
        finally:
            site.close()
        silences = [max(site.heard_of(lang).longest, default=0.0) for lang in LANGUAGES]
        moved = sum(len(site.heard_of(lang).at_moves) for lang in LANGUAGES)
        calls = sum(map(len, site.calls.values()))
        yield [fault, *(f"{ms:.0f} ms" for ms in silences), f"{moved} of {calls}", said], said == "all kept"
