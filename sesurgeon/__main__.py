"""``python -m sesurgeon``, and the console script."""

from __future__ import annotations

import sys

from sesurgeon.interrupts import INTERRUPTED


def main() -> None:
    """Run the command line; after Ctrl-C, also while it is loaded, leave with 130."""
    try:
        from sesurgeon.cli import app

        app.main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except SystemExit as left:
        from sesurgeon.cli.launching import leave_after

        leave_after(left.code)
        raise
    finally:
        sys.stdout = sys.stderr  # for libraries that print as the process ends: the result stays alone


if __name__ == "__main__":
    main()
