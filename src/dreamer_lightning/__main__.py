"""``python -m dreamer_lightning``; also as a script, for launchers that want a file."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder or this one: a file there may have the name of a library
    from dreamer_lightning.cli import main

    sys.exit(main())
