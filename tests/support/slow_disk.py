"""Run the rule ``predict`` where every sync, and every request to write, takes a while: ALLOCATED CERTIFICATE SECONDS.

A kill then falls as often between the steps of a write as between the blocks, which a fast disk would hide.
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import obstore

from unetpipe.predict import predict

_SYNC = os.fsync
_PUT = obstore.put


def _slowly(fd: Any) -> None:
    time.sleep(float(sys.argv[3]))
    _SYNC(fd)


def _put_slowly(*words: Any, **how: Any) -> Any:
    time.sleep(float(sys.argv[3]))
    found = _PUT(*words, **how)
    time.sleep(float(sys.argv[3]))
    return found


# Not in main: worker processes import this file too, and their syncs are the ones that matter.
os.fsync = _slowly
obstore.put = _put_slowly


def main() -> None:
    allocated, certificate = Path(sys.argv[1]), Path(sys.argv[2])
    predict(allocated, certificate, allocated.parent / "job-0.json", job="job-0", workers=2, cores=2)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
