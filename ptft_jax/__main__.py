"""`python -m ptft_jax` is the console script `ptft`."""

import sys

from ptft_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
