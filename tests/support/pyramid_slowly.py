"""Run the rule ``pyramid`` with two workers, where every sync takes a while: ALLOCATED SECONDS.

A kill then falls as often between the steps of a write as between the shards, which a fast disk would hide.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from unetpipe import pyramid as module

_SYNC = os.fsync


def _slowly(fd: Any) -> None:
    time.sleep(float(sys.argv[2]))
    _SYNC(fd)


# Not in main: worker processes import this file too, and their syncs are the ones that matter.
os.fsync = _slowly


def main() -> None:
    # However few shards there are, processes make them.
    module._FEW, module._ENOUGH = 0, 1
    allocated = Path(sys.argv[1])
    done = allocated.with_name("pyramid.json")
    module.pyramid(allocated, [allocated.with_name("job-0.json")], done, workers=2, cores=2)


if __name__ == "__main__":
    main()
