"""SLURM on this machine alone, with stand-ins for two GPUs: installed from Debian's packages, started, stopped whole.

    python tests/support/slurm.py [COMMAND ...]      runs a command, or a shell, beside it, and stops it afterwards

It needs root, since SLURM reads its configuration from /etc/slurm alone in the steps of a job. A configuration that is
there already is that of a real cluster: nothing is touched then.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from ports import free_ports

PACKAGES = ["munge", "slurm-client", "slurm-wlm"]
COMMANDS = ["munged", "sbatch", "scontrol", "slurmctld", "slurmd"]
PLACE = Path("/etc/slurm")
CLUSTER = "unetpipe-test"
GPUS = 2
CPUS = 8
"""That jobs can ask for, however many there are."""

_RUN = Path("/run/munge")
_SECONDS = 60.0

_CONFIGURATION = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
# SLURM lets a job that it begins once more wait so long.
AuthInfo=cred_expire=15
CredType=cred/munge
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/d
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# More processors than there are: what the tests wait for is seldom a processor.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=600
SchedulerParameters=sched_interval=1,bf_interval=1,defer=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
CommunicationParameters=NoAddrCache,NoCtldInAddrAny,NoInAddrAny
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def unavailable() -> str | None:
    """Why there can be no such cluster here; None if there can. Installs the packages where they are missing."""
    if os.geteuid() != 0:
        return "SLURM's daemons need root"
    if any((PLACE / name).exists() for name in ("slurm.conf", "gres.conf")):
        return f"{PLACE} holds a configuration already: this machine belongs to a cluster"
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if not missing:
        return None
    if shutil.which("apt-get") is None:
        return f"there is no {missing[0]}, and no apt-get to install it"
    quietly = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", *words], env=quietly, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            return f"apt-get {words[0]} failed: {done.stdout.strip().splitlines()[-1:]}"
    return None


@contextmanager
def running() -> Iterator[None]:
    """The cluster, until the block ends; then no process and no configuration of it is left."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)
        stack.enter_context(_munge())
        stack.enter_context(_configured(folder))
        stack.callback(_stop, folder)
        subprocess.run(["slurmctld", "-c"], check=True)
        subprocess.run(["slurmd"], check=True)
        until(lambda: "idle" in said("sinfo", "--noheader", "--format=%t"), "the node to be idle")
        yield


def said(*words: str) -> str:
    """What a command of SLURM prints."""
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout


def queue() -> dict[str, str]:
    """What is in the queue, or runs, or is about to end: the state of each job, by its number."""
    lines = said("squeue", "--noheader", "--format=%i %T").splitlines()
    return {number: state for number, _, state in (line.partition(" ") for line in lines)}


def until(happens: Callable[[], bool], what: str, seconds: float = _SECONDS) -> None:
    """Wait for something; TimeoutError if it does not happen."""
    latest = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > latest:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}; in the queue: {queue()}")
        time.sleep(0.1)


@contextmanager
def _munge() -> Iterator[None]:
    """The daemon that signs what SLURM's daemons tell each other. One that runs already is used, and left."""
    if (
        subprocess.run(["munge", "-n"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
        == 0
    ):
        yield
        return
    _RUN.mkdir(exist_ok=True)
    shutil.chown(_RUN, "munge", "munge")
    _RUN.chmod(0o755)
    subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
    try:
        yield
    finally:
        _end(_RUN / "munged.pid")


@contextmanager
def _configured(folder: Path) -> Iterator[None]:
    """Its configuration; removed again, for without daemons it makes every command of SLURM wait."""
    host = socket.gethostname().partition(".")[0]
    for number in range(GPUS):
        # As harmless as /dev/null, which it is.
        os.mknod(folder / f"nvidia{number}", 0o666 | 0o020000, os.makedev(1, 3))
    memory = psutil.virtual_memory().total * 9 // 10 >> 20
    (folder / "ctld").mkdir()
    (folder / "d").mkdir()
    PLACE.mkdir(exist_ok=True)
    texts = {
        "gres.conf": f"NodeName={host} Name=gpu File={folder}/nvidia[0-{GPUS - 1}]\n",
        "slurm.conf": _CONFIGURATION.format(
            cluster=CLUSTER, host=host, folder=folder, memory=memory, cpus=CPUS, gpus=GPUS, ports=free_ports(2)
        ),
    }
    try:
        for name, text in texts.items():
            (PLACE / name).write_text(text)
        yield
    finally:
        for name in texts:
            (PLACE / name).unlink(missing_ok=True)


def _stop(folder: Path) -> None:
    """End all jobs, then the daemons; whatever they do not end, too."""
    with suppress(subprocess.CalledProcessError, TimeoutError):
        subprocess.run(["scancel", "--state=PENDING", f"--user={os.getuid()}"], check=True, stderr=subprocess.DEVNULL)
        subprocess.run(["scancel", f"--user={os.getuid()}"], check=True, stderr=subprocess.DEVNULL)
        until(lambda: not queue(), "all jobs to end")
    for daemon in ("slurmctld", "slurmd"):
        _end(folder / f"{daemon}.pid")
    # Where a node was said to be down, what ran there goes on.
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("SLURM_CLUSTER_NAME") == CLUSTER or process.name() == "slurmstepd":
                process.kill()


def _end(pidfile: Path) -> None:
    """End the daemon that has written a pidfile, and wait until it is gone."""
    try:
        process = psutil.Process(int(pidfile.read_text()))
    except (OSError, ValueError, psutil.NoSuchProcess):
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        if not psutil.wait_procs([process], timeout=20)[1]:
            return


def main(words: list[str]) -> int:
    """Run a command beside the cluster."""
    if reason := unavailable():
        print(f"no SLURM here: {reason}", file=sys.stderr)  # noqa: T201
        return 1
    with running():
        return subprocess.run(words or [os.environ.get("SHELL", "sh")], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
