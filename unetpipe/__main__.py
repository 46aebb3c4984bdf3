"""``python -m unetpipe``."""

import sys

from unetpipe.cli import main

sys.exit(main())
