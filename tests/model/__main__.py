"""``python -m tests.model [--full] [--without] [WORD ...]``: explores, and prints the shortest way to what breaks."""

from __future__ import annotations

import sys
import time

from tests.model.explore import explore
from tests.model.protocol import RULES
from tests.model.scenarios import LONG, SHORT


def main(*arguments: str) -> int:
    """Explores the scenarios whose names have one of the words; 1 when a promise breaks under all rules."""
    words = [a for a in arguments if not a.startswith("-")]
    limit = next((int(a[8:]) for a in arguments if a.startswith("--limit=")), 3_000_000)
    broken = False
    for scenario in SHORT + (LONG if "--full" in arguments else ()):
        if words and not any(word in scenario.name for word in words):
            continue
        runs = {"all rules": frozenset(RULES)}
        if "--without" in arguments:
            runs |= {f"without {rule}": frozenset(RULES) - {rule} for rule in RULES}
        for title, rules in runs.items():
            began = time.monotonic()
            result = explore(scenario, rules, limit)
            cut = "" if result.complete else ", cut short"
            said = "BROKEN " + " ".join(result.broken) if result.broken else "keeps all"
            print(
                f"{scenario.name:36} {title:24} {result.states:>9,} states {time.monotonic() - began:5.1f} s{cut}  {said}",
                flush=True,
            )
            if title == "all rules":
                broken |= bool(result.broken)
                for promise, steps in result.broken.items():
                    print(f"    {promise}: {'; '.join(steps)}")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
