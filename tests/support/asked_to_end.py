"""Run a rule that is asked to end, and asked again while it cleans up: FOLDER, for its log."""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from unetpipe import rule


def given() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("cleaned up", flush=True)  # noqa: T201


def main() -> None:
    log = Path(sys.argv[1]) / "try.log"
    job = SimpleNamespace(rule="try", wildcards=[], log=[log], input={}, output={}, params={}, threads=1)
    before = signal.getsignal(signal.SIGTERM)
    try:
        rule.run(job, given)
    finally:
        if signal.getsignal(signal.SIGTERM) == before:
            print("the handler is the one before", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
