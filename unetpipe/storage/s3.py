"""A prefix in a bucket of Amazon's S3, or of a storage that speaks its protocol."""

import errno
import itertools
import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from unetpipe.errors import UserError
from unetpipe.storage import aws
from unetpipe.storage.contract import Entry, Folder
from unetpipe.storage.local import LOG

# After the module that says what to do where it is not installed.
import obstore  # isort: skip
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError  # isort: skip

_LINES = 256
"""Of an object of a log. Each line writes the last object anew: many lines cost bytes, few cost objects."""

_READERS = 16

_AT_ONCE = 1000
"""Objects that one request removes."""

_ATTEMPTS = 3
"""To write an object, each of which repeats single requests: those of writing are not repeated after a timeout."""

_STATUS = re.compile(r"status code: (\d{3})")
_REASON = re.compile(r"<Code>([^<]*)</Code>(?:.*?<Message>([^<]*)</Message>)?", re.DOTALL)
"""In what the storage answered."""

_REFUSED = ("400", "401", "403")
"""Of these, 400 says that a token has expired, or that the region is another one."""


_UNSIGNED = (
    f"requests are not signed, for the environment variable {aws.UNSIGNED} is set: so buckets are only read",
    "unset it and give credentials, or put results elsewhere",
)


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
        if self.prefix and not {"", ".", ".."}.isdisjoint(self.prefix.split("/")):
            raise UserError(
                f"{address} was to be used",
                "an empty name, . or .. between two slashes, which have no meaning in a bucket",
                "give s3://BUCKET/PREFIX without them",
            )
        self._store = aws.store(self.bucket)
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

    def unwritable(self) -> str | None:
        """That requests are not signed; what else a storage does not allow, it tells when it is asked."""
        return None if aws.is_signed() else "; ".join(_UNSIGNED)

    def read(self, name: str) -> bytes:
        """The content of an object."""
        with self._told(name):
            return obstore.get(self._store, self._key(name)).bytes().to_bytes()

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none."""
        with self._told(name):
            try:
                return obstore.head(self._store, self._key(name))["size"]
            except FileNotFoundError:
                return None
            except BaseError as error:
                if not _is_refused(error):
                    raise
                # The answer to this has no body; that to another request tells why.
                obstore.get_range(self._store, self._key(name), start=0, length=1)
                raise

    def write(self, name: str, data: bytes) -> None:
        """Put an object: the storage has it, or what was there before."""
        self._refuse_unsigned(name)
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
        self._refuse_unsigned(name)
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
        self._refuse_unsigned("")
        self._logs.clear()
        entries = self.entries()
        # The listing goes by names, so what is removed meanwhile does not disturb it.
        while names := [self._key(entry.name) for entry in itertools.islice(entries, _AT_ONCE)]:
            with self._told(""):
                obstore.delete(self._store, names)

    def kvstore(self) -> dict[str, Any]:
        """For TensorStore, which finds the credentials in the place where botocore found them."""
        return aws.kvstore(self.bucket, self._key(""))

    def _refuse_unsigned(self, name: str) -> None:
        if not aws.is_signed():
            raise UserError(f"{self.where(name)} was to be written or removed", *_UNSIGNED)

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Errors of the library as those of the system, each in one line and with the address."""
        try:
            yield
        except (FileNotFoundError, BaseError) as error:
            raise self._failure(error, name) from None

    def _failure(self, error: Exception, name: str) -> Exception:
        text = str(error)
        reason = _REASON.search(text)
        code, message = (reason[1], reason[2]) if reason else ("", "")
        # Of the answer no more than these: some name the key that was used.
        said = f" ({code}: {message})" if message else f" ({code})" if code else ""
        if code == "NoSuchBucket":
            return UserError(
                f"{self.where(name)} was to be used",
                f"there is no bucket {self.bucket}",
                "mend the address, or make the bucket; AWS_ENDPOINT_URL names a storage other than Amazon's",
            )
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(errno.ENOENT, "no such object", self.where(name))
        if _is_refused(error):
            return PermissionError(errno.EACCES, f"the storage does not allow it{said}", self.where(name))
        line = text.partition(": <")[0].partition("\n")[0] or type(error).__name__
        return OSError(errno.EIO, f"the storage did not do it ({line}){said}", self.where(name))


def _is_refused(error: BaseException) -> bool:
    """Whether a storage understood a request and does not do it for who asks."""
    status = _STATUS.search(str(error))
    return isinstance(error, PermissionDeniedError | UnauthenticatedError) or bool(status and status[1] in _REFUSED)
