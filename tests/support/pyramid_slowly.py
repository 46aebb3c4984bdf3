"""Run the rule ``pyramid`` with two workers, where every sync takes a while: ALLOCATED SECONDS.

A kill then falls as often between the steps of a write as between the shards, which a fast disk would hide.
"""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from unetpipe import pyramid as module
from unetpipe.rule import run

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
    files = {
        "allocated": allocated,
        "predicted": [allocated.with_name("job-0.json")],
        "pyramid": allocated.with_name("pyramid.json"),
    }
    job = SimpleNamespace(
        rule="pyramid", wildcards=[], log=[allocated.with_name("pyramid.log")], input=files, output={},
        params={"workers": 2}, threads=2,
    )  # fmt: skip
    run(job, module.pyramid)


if __name__ == "__main__":
    main()
