"""Where an S3-compatible storage is, and who asks: as Amazon's own tools are told, and in no other way.

Endpoint, region and credentials come from environment variables, from the files in ``~/.aws`` and from the roles of
containers and machines, all found by botocore. Credentials are handed on in memory and never written anywhere. Where
AWS_SKIP_SIGNATURE is set (the variable of obstore; Amazon's tools have the option ``--no-sign-request``), requests are
not signed: so buckets that are open to all are read by those who have no credentials, and nothing is written.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from unetpipe.errors import UserError

try:
    import botocore.session
    from botocore.credentials import Credentials
    from botocore.exceptions import BotoCoreError
    from obstore.store import S3Store
except ModuleNotFoundError as error:
    raise UserError(
        "an address of S3 was to be used", f"the package {error.name} is not installed", "pip install 'unetpipe[s3]'"
    ) from None

UNSIGNED = "AWS_SKIP_SIGNATURE"

RETRIES: Any = {
    "max_retries": 10,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 3},
}
"""Of single requests: for about half a minute, which a server takes that begins anew."""

_TIMEOUTS: Any = {"connect_timeout": "10s", "timeout": "300s"}
"""Until an answer has come as a whole: where many write at a time, a shard of 100 MB has 0.3 MB/s of a line."""

_SWITCH = {
    **dict.fromkeys(("1", "true", "yes", "y", "on"), True),
    **dict.fromkeys(("", "0", "false", "no", "n", "off"), False),
}
"""What obstore takes for true and false."""

_CREDENTIALS = {
    "env": "environment",
    "shared-credentials-file": "profile",
    "config-file": "profile",
    "container-role": "ecs",
    "iam-role": "imds",
}
"""TensorStore's names for where botocore found the credentials."""


def is_signed() -> bool:
    """Whether requests are signed; UserError if the variable says neither."""
    value = os.environ.get(UNSIGNED, "")
    try:
        return not _SWITCH[value.strip().lower()]
    except KeyError:
        raise UserError(
            "an address of S3 was to be used",
            f"the environment variable {UNSIGNED} is {value!r}",
            "set it to true to read public buckets without credentials, or unset it",
        ) from None


@functools.lru_cache(maxsize=16)
def store(bucket: str) -> S3Store:
    """The client for a bucket, which threads share.

    Raises
    ------
    UserError
        If there are no credentials, or the configuration cannot be used.
    """
    with _usable():
        there, endpoint = session(), _endpoint()
    others: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
    if is_signed():
        others["credential_provider"] = _provider(_credentials(there))
    else:
        others["skip_signature"] = True
    options: Any = {**_TIMEOUTS, "allow_http": endpoint is not None and endpoint.startswith("http://")}
    return S3Store(
        bucket,
        region=_region(),
        # A storage on an address of one's own seldom has a name for each bucket.
        virtual_hosted_style_request=endpoint is None,
        client_options=options,
        retry_config=RETRIES,
        **others,
    )


def kvstore(bucket: str, path: str) -> dict[str, Any]:
    """The same for TensorStore, which finds the credentials in the place where botocore found them."""
    with _usable():
        endpoint = _endpoint()
    method = _CREDENTIALS.get(_credentials(session()).method, "default") if is_signed() else "anonymous"
    return {
        "driver": "s3",
        "bucket": bucket,
        "path": path,
        "aws_region": _region(),
        "aws_credentials": {"type": method},
        **({} if endpoint is None else {"endpoint": endpoint}),
    }


@functools.cache
def session() -> botocore.session.Session:
    """The one of this process, which has read the configuration."""
    return botocore.session.get_session()


def _endpoint() -> str | None:
    """That of the variables AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL, or of the profile; None for Amazon's."""
    client = session().create_client("s3", region_name=_region(), aws_access_key_id="", aws_secret_access_key="")
    endpoint: str = client.meta.endpoint_url
    return None if endpoint.endswith(".amazonaws.com") else endpoint


def _region() -> str:
    # The first is what most tools read, and botocore does not.
    region: str | None = os.environ.get("AWS_REGION") or session().get_config_variable("region")
    return region or "us-east-1"


def _credentials(there: botocore.session.Session) -> Credentials:
    with _usable():
        found: Credentials | None = there.get_credentials()
    if found is None:
        raise UserError(
            "an address of S3 was to be used",
            "there are no credentials: neither in environment variables nor in ~/.aws, nor has this machine a role",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; to read a public bucket, set "
            f"{UNSIGNED}=true",
        )
    return found


@contextmanager
def _usable() -> Iterator[None]:
    """What botocore says of a configuration, for the user."""
    try:
        yield
    except (BotoCoreError, ValueError) as error:
        raise UserError(
            "an address of S3 was to be used",
            f"the configuration of AWS cannot be used: {error}",
            "mend the environment variables (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL such as http://HOST:PORT, the "
            "credentials) or the files in ~/.aws",
        ) from None


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
