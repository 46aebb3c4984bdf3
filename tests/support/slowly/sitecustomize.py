"""Loaded by every Python that finds this folder on its path: each sync of a file takes SYNC_SECONDS more.

So a prediction takes long without a processor, and there is time to do something to it.
"""

import os
import time

_SYNC = os.fsync


def _slowly(descriptor: int) -> None:
    time.sleep(float(os.environ["SYNC_SECONDS"]))
    _SYNC(descriptor)


os.fsync = _slowly
