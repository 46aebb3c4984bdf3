"""S3-compatible servers: in this process, in processes of their own, and one before another that stumbles."""

import http.client
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ports import free_ports

KEY_ID, SECRET = "an-id-of-tests", "a-secret-that-nothing-may-print"
REGION = "us-east-1"
ANSWERS = "so it says"
"""What a server says when it refuses."""


@contextmanager
def server() -> Iterator[str]:
    """The endpoint of a server that keeps buckets in memory."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        yield "http://{}:{}".format(*running.get_host_and_port())
    finally:
        running.stop()


def make_bucket(endpoint: str, name: str) -> None:
    """A new bucket."""
    client(endpoint).create_bucket(Bucket=name)


@contextmanager
def server_on_disk(folder: Path, bucket: str) -> Iterator[str]:
    """The endpoint of a server in processes of its own, which keeps its buckets in ``folder``."""
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("SeaweedFS is not installed")
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "admin") for kind in ("", ".grpc")]
    ports = dict(zip([*names, "s3.port"], free_ports(len(names) + 1), strict=True))
    words = [f"-{name}={port}" for name, port in ports.items()]
    words += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("wb") as out:
        running = subprocess.Popen(
            [program, "mini", f"-dir={folder}", f"-bucket={bucket}", *words],
            env=os.environ | {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET},
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        _wait_for(endpoint, bucket)
        yield endpoint
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def _wait_for(endpoint: str, bucket: str) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    there = client(endpoint)
    for _ in range(300):
        with suppress(BotoCoreError, ClientError):
            there.head_bucket(Bucket=bucket)
            # It answers before it can write.
            there.put_object(Bucket=bucket, Key="ready", Body=b"")
            there.delete_object(Bucket=bucket, Key="ready")
            return
        time.sleep(0.2)
    raise TimeoutError(f"no S3 server at {endpoint}")


def environment(endpoint: str) -> dict[str, str]:
    """The variables by which a process finds the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }


def forget() -> None:
    """Let the package ask for endpoint and credentials anew, where they have changed."""
    from unetpipe.storage import aws

    aws.session.cache_clear()
    aws.store.cache_clear()


def client(endpoint: str) -> Any:
    """Another client than the package's."""
    import boto3

    return boto3.client(
        "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET
    )


@dataclass
class Stumbles:
    """What a server in front does to requests, and how often it did: each of ``plan`` to every ``every``-th request.

    ``503 SlowDown``, or another status and code: it answers that. ``drop``: it cuts the connection before it answers.
    ``cut``: amid the answer. ``lost``: the request is carried out, and the answer never comes. ``slow``: it answers
    after ``seconds``. ``signed``: requests that named who asks.
    """

    plan: tuple[str, ...] = ()
    every: int = 5
    seconds: float = 0.5
    signed: int = 0
    did: Counter[str] = field(default_factory=Counter)
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, signed: bool) -> str:
        """For one request; the empty string for none."""
        with self._lock:
            self._count += 1
            self.signed += signed
            if not self.plan or self._count % self.every:
                return ""
            kind = self.plan[self._count // self.every % len(self.plan)]
            self.did[kind] += 1
            return kind


@contextmanager
def stumbling(endpoint: str, stumbles: Stumbles) -> Iterator[str]:
    """The endpoint of a server that hands requests on to ``endpoint``."""
    host, _, port = endpoint.removeprefix("http://").partition(":")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _hand_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kind = stumbles.next("Authorization" in self.headers)
            if kind[:1].isdigit():
                status, _, code = kind.partition(" ")
                said = f"<Code>{code}</Code><Message>{ANSWERS}</Message><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId>"
                content = f"<Error>{said}</Error>".encode()
                self.send_response(int(status))
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)
                return
            if kind == "drop":
                self._hang_up()
                return
            if kind == "slow":
                time.sleep(stumbles.seconds)
            there = http.client.HTTPConnection(host, int(port))
            there.request(self.command, self.path, body, dict(self.headers))
            found = there.getresponse()
            content = found.read()
            there.close()
            if kind == "lost":
                self._hang_up()
                return
            self.send_response(found.status)
            for name, value in found.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                    self.send_header(name, value)
            length = int(found.headers.get("Content-Length", 0)) if self.command == "HEAD" else len(content)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if kind == "cut" and len(content) > 1:
                self.wfile.write(content[: len(content) // 2])
                self._hang_up()
                return
            self.wfile.write(content)

        def _hang_up(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        # The names that the library looks for.
        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _hand_on  # noqa: N815

    front = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front.daemon_threads = True
    thread = threading.Thread(target=front.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{front.server_port}"
    finally:
        front.shutdown()
        front.server_close()
