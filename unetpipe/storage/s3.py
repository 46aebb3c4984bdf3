"""A prefix in a bucket of Amazon's S3, or of a storage that speaks its protocol.

Credentials, region and endpoint are those that Amazon's own tools use: environment variables, the files in
``~/.aws``, and the roles of containers and machines. They are asked for by botocore and never written anywhere.
"""

import errno
import functools
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from unetpipe.errors import UserError
from unetpipe.storage.contract import Entry, Folder
from unetpipe.storage.local import LOG

try:
    import botocore.session
    import obstore
    from botocore.credentials import Credentials
    from botocore.exceptions import BotoCoreError
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import S3Store
except ModuleNotFoundError as error:
    raise UserError(
        "an address of S3 was to be used", f"the package {error.name} is not installed", "pip install 'unetpipe[s3]'"
    ) from None

_LINES = 256
"""Of an object of a log. Each line writes the last object anew: many lines cost bytes, few cost objects."""

_READERS = 16

_ATTEMPTS = 3
"""To write an object, each of which repeats single requests: those of writing are not repeated after a timeout."""

_RETRIES: Any = {
    "max_retries": 10,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 2},
}
_TIMEOUTS: Any = {"connect_timeout": "10s", "timeout": "60s"}

_CREDENTIALS = {
    "env": "environment",
    "shared-credentials-file": "profile",
    "config-file": "profile",
    "container-role": "ecs",
    "iam-role": "imds",
}
"""TensorStore's names for where botocore found the credentials."""


@dataclass
class _Log:
    """Of this process: the lines of the object that is being written, and its number."""

    number: int = 0
    lines: list[bytes] = field(default_factory=list)


class Bucket(Folder):
    """What lies below ``s3://BUCKET/PREFIX``."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise UserError(
                f"{address} was to be used", "no address that is known", "give a path, or s3://BUCKET/PREFIX"
            )
        super().__init__(address.rstrip("/"))
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self._store = _store(self.bucket)
        self._logs: dict[str, _Log] = {}
        # Another one that writes the same log has other objects: none is written anew by who does not know its lines.
        self._token = uuid.uuid4().hex
        self._writing = threading.Lock()

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def below(self, name: str) -> "Bucket":
        """The folder ``name`` in this one."""
        return Bucket(f"{self.address}/{name}")

    def where(self, name: str) -> str:
        """The address of an object."""
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes:
        """The content of an object."""
        with self._told(name):
            return obstore.get(self._store, self._key(name)).bytes().to_bytes()

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none."""
        try:
            with self._told(name):
                return obstore.head(self._store, self._key(name))["size"]
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Put an object: the storage has it, or what was there before."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._told(name):
                    # In one request: a multipart upload that is given up leaves parts that nobody sees and all pay for.
                    obstore.put(self._store, self._key(name), data, use_multipart=False)
            except (FileNotFoundError, PermissionError):
                raise
            except OSError:
                if attempt == _ATTEMPTS:
                    raise
            else:
                return

    def append(self, log: str, line: bytes) -> None:
        """Add a line to a log: to its last object, which is written anew."""
        with self._writing:
            open_log = self._logs.setdefault(log, _Log())
            if len(open_log.lines) == _LINES:
                open_log.number, open_log.lines = open_log.number + 1, []
            # Before it is written: where that fails, the storage may have it all the same, and it must not go again.
            open_log.lines.append(line)
            name = f"{log}.{self._token}.{open_log.number:06}{LOG}"
            self.write(name, b"".join(each + b"\n" for each in open_log.lines))

    def lines(self) -> Iterator[bytes]:
        """The lines of all logs; some objects are read at a time."""
        with ThreadPoolExecutor(_READERS) as pool:
            for content in pool.map(self.read, sorted(self.logs())):
                yield from content.splitlines(keepends=True)

    def logs(self) -> dict[str, Entry]:
        """The objects of the logs."""
        return {entry.name: entry for entry in self.entries(deep=False) if entry.name.endswith(LOG)}

    def remove(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        with self._told(name):
            obstore.delete(self._store, self._key(name))

    def entries(self, *, deep: bool = True, ordered: bool = True) -> Iterator[Entry]:  # noqa: ARG002 – ordered anyway
        """All objects below; a listing that ends amid a page goes on from there."""
        start, last, failures = len(self._key("")), None, 0
        while True:
            try:
                with self._told(""):
                    for item in self._items(last, deep=deep):
                        last, failures = item["path"], 0
                        yield Entry(last[start:], item["size"], str(item["e_tag"]), item["last_modified"].timestamp())
            except OSError:
                failures += 1
                if failures == _ATTEMPTS:
                    raise
            else:
                return

    def _items(self, last: str | None, *, deep: bool) -> Iterator[Any]:
        """What the storage says of each object after ``last``, in the order of their names."""
        if deep:
            for page in obstore.list(self._store, self.prefix or None, offset=last):
                yield from page
        else:
            found = obstore.list_with_delimiter(self._store, self.prefix or None)["objects"]
            yield from (item for item in found if last is None or item["path"] > last)

    def clear(self) -> None:
        """Remove all objects below."""
        self._logs.clear()
        names = [self._key(entry.name) for entry in self.entries()]
        with self._told(""):
            for first in range(0, len(names), 1000):
                obstore.delete(self._store, names[first : first + 1000])

    def kvstore(self) -> dict[str, Any]:
        """For TensorStore, which finds the credentials in the place where botocore found them."""
        session = _session()
        found: dict[str, Any] = {"driver": "s3", "bucket": self.bucket, "path": self._key("")}
        if (endpoint := _endpoint(session)) is not None:
            found["endpoint"] = endpoint
        found["aws_region"] = _region(session)
        found["aws_credentials"] = {"type": _CREDENTIALS.get(_credentials(session).method, "default")}
        return found

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Errors of the library as those of the system, each in one line and with the address."""
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise UserError(
                    f"{self.where(name)} was to be used",
                    f"there is no bucket {self.bucket}",
                    "mend the address, or make the bucket; AWS_ENDPOINT_URL names a storage other than Amazon's",
                ) from None
            raise FileNotFoundError(errno.ENOENT, "no such object", self.where(name)) from None
        except (PermissionDeniedError, UnauthenticatedError):
            raise PermissionError(errno.EACCES, "the storage does not allow it", self.where(name)) from None
        except BaseError as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise OSError(errno.EIO, f"the storage did not do it ({line})", self.where(name)) from None


@functools.cache
def _session() -> botocore.session.Session:
    return botocore.session.get_session()


def forget_sessions() -> None:
    """Ask for endpoint and credentials anew, where they have changed."""
    _session.cache_clear()
    _store.cache_clear()


def _endpoint(session: botocore.session.Session) -> str | None:
    """That of the variables AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL, or of the profile; None for Amazon's."""
    client = session.create_client("s3", region_name=_region(session))
    endpoint: str = client.meta.endpoint_url
    return None if endpoint.endswith(".amazonaws.com") else endpoint


def _region(session: botocore.session.Session) -> str:
    # The first is what most tools read, and botocore does not.
    region: str | None = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    return region or "us-east-1"


def _credentials(session: botocore.session.Session) -> Credentials:
    try:
        found: Credentials | None = session.get_credentials()
    except BotoCoreError as error:
        raise UserError(
            "an address of S3 was to be used", f"credentials cannot be had: {error}", "mend the configuration of AWS"
        ) from None
    if found is None:
        raise UserError(
            "an address of S3 was to be used",
            "there are no credentials: neither in environment variables nor in ~/.aws, nor has this machine a role",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    return found


@functools.lru_cache(maxsize=16)
def _store(bucket: str) -> S3Store:
    session = _session()
    endpoint = _endpoint(session)
    settings: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
    options: Any = {**_TIMEOUTS, "allow_http": endpoint is not None and endpoint.startswith("http://")}
    return S3Store(
        bucket,
        region=_region(session),
        # A storage on an address of one's own seldom has a name for each bucket.
        virtual_hosted_style_request=endpoint is None,
        client_options=options,
        retry_config=_RETRIES,
        credential_provider=_provider(_credentials(session)),
        **settings,
    )


def _provider(credentials: Credentials) -> Callable[[], Any]:
    """Credentials as they are now: botocore renews those that expire."""

    def provide() -> dict[str, Any]:
        now = credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": getattr(credentials, "_expiry_time", None),
        }

    return provide
