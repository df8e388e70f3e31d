"""The door `python -m edl_allreduce.launch`, the same as the console script `edl`."""

import sys

from launcher.cli import main

if __name__ == "__main__":
    sys.exit(main())
