"""Loaded by every Python that finds this folder on its path.

Each sync of a file takes SYNC_SECONDS more. So a prediction takes long without a processor, and there is time to do
something to it. And snakemake looks for its jobs every second: it would look ever less often, and the tests wait.
"""

import os
import sys
import time

_SYNC = os.fsync


def _slowly(descriptor: int) -> None:
    time.sleep(float(os.environ["SYNC_SECONDS"]))
    _SYNC(descriptor)


os.fsync = _slowly

if sys.orig_argv[1:3] == ["-m", "snakemake"]:
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    RemoteExecutor.next_seconds_between_status_checks = property(lambda _: 1, lambda _, seconds: None)
