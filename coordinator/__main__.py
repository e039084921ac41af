"""``python -m coordinator`` is the command ``coordinator``."""

from coordinator.cli.app import main

if __name__ == "__main__":
    main()
