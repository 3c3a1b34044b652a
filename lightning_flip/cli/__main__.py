"""``python -m lightning_flip.cli`` is ``lightning-flip``."""

import sys

from lightning_flip.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
