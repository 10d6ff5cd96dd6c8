"""`python -m boltzflow` is `boltzflow`."""

import sys

from boltzflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
