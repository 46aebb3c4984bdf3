"""An S3-compatible server in this process, and one before it that stumbles."""

import http.client
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY_ID, SECRET = "an-id-of-tests", "a-secret-that-nothing-may-print"
REGION = "us-east-1"


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


def environment(endpoint: str) -> dict[str, str]:
    """The variables by which a process finds the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }


def client(endpoint: str) -> Any:
    """Another client than the package's."""
    import boto3

    return boto3.client(
        "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET
    )


@dataclass
class Stumbles:
    """What a server in front does to requests, and how often it did: each of ``plan`` to every ``every``-th request.

    ``503``: it says to slow down. ``drop``: it cuts the connection before it answers. ``cut``: amid the answer.
    ``lost``: the request is carried out, and the answer never comes. ``slow``: it answers after ``seconds``.
    """

    plan: tuple[str, ...] = ()
    every: int = 5
    seconds: float = 0.5
    did: Counter[str] = field(default_factory=Counter)
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> str:
        """For one request; the empty string for none."""
        with self._lock:
            self._count += 1
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
            kind = stumbles.next()
            if kind == "503":
                answer = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
                self.send_response(503)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
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
