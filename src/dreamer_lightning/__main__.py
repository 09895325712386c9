"""``python -m dreamer_lightning``."""

import sys

from dreamer_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
