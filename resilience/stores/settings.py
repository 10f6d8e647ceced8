"""What can be set on a store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from resilience.settings import Kind, option, validate

_NAME = r"what services that share the store call themselves; those of one name share limits and health"
_QUORUM = "processes that must have a breaker open before the limiters of all are cut"


@dataclass(frozen=True, slots=True)
class ProcessStoreSettings:
    """State lives in each process by itself."""

    kind: ClassVar[str] = "process"


@dataclass(frozen=True, slots=True)
class HostStoreSettings:
    """State is shared by the processes of one machine. `name` None: called after the configuration file."""

    kind: ClassVar[str] = "host"

    name: str | None = option(Kind.TEXT, f"{_NAME}; not set: the path of the configuration file", default=None, optional=True)
    directory: str | None = option(
        Kind.TEXT,
        "where its files are, an absolute path; not set: where the machine keeps what need not last",
        default=None,
        optional=True,
    )
    quorum: int = option(Kind.COUNT, _QUORUM, default=1, minimum=1, maximum=10_000)

    def __post_init__(self) -> None:
        validate(self)
        if self.directory is not None and not Path(self.directory).is_absolute():  # workers may have different working directories
            raise ValueError(f"HostStoreSettings.directory: must be an absolute path, such as /run/shop, got {self.directory!r}")


@dataclass(frozen=True, slots=True)
class RedisStoreSettings:
    """State is shared by all processes that reach one Redis or Valkey."""

    kind: ClassVar[str] = "redis"

    url: str = option(
        Kind.TEXT,
        "where it is: redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://, with user and password",
    )
    mode: str = option(
        Kind.CHOICE,
        "strict asks on every decision; lease takes tokens ahead and spends them here",
        default="strict",
        choices=("strict", "lease"),
    )
    name: str = option(Kind.TEXT, f"{_NAME}: its keys begin with it", default="resilience")
    timeout_s: float = option(Kind.DURATION, "the longest that a decision waits for it", default=0.04, minimum=0.001, maximum=0.05)
    quorum: int = option(Kind.COUNT, _QUORUM, default=1, minimum=1, maximum=10_000)

    def __post_init__(self) -> None:
        validate(self)
        if not self.url.startswith(SCHEMES):
            raise ValueError(f"RedisStoreSettings.url: must begin with {_SHOWN}, got {_scheme(self.url)}")
        hosts_of_cluster(self.url)

    def __repr__(self) -> str:
        return f"RedisStoreSettings(mode={self.mode!r}, name={self.name!r})"  # the url may hold a password


CLUSTERS = ("redis+cluster://", "rediss+cluster://")
SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://", *CLUSTERS)
_SHOWN = "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
_PORT = 6379
StoreSettings = ProcessStoreSettings | HostStoreSettings | RedisStoreSettings
PROCESS = ProcessStoreSettings()


def after_file(path: str | os.PathLike[str]) -> str:
    """What the processes of a service call their store, and no other service does: after their configuration file.

    Made of the file's path, with links followed in its folder only (a Kubernetes volume changes where the file itself leads with
    each change), and of which folder that is (containers that share /dev/shm have different ones at the same path).
    """
    folder = Path(os.path.realpath(Path(path).absolute().parent))
    try:
        found = folder.stat()
    except OSError:
        return f"{folder}/{Path(path).name}"
    return f"{folder}/{Path(path).name} {found.st_dev} {found.st_ino}"


def _scheme(url: str) -> str:
    """What stands before "://": the rest may hold a password."""
    scheme, mark, _ = url.partition("://")
    return repr(scheme + mark) if mark else "a text without ://"


def hosts_of_cluster(url: str) -> tuple[tuple[str, int], ...]:
    """The hosts and ports that the URL of a cluster names: redis+cluster://HOST:PORT,HOST:PORT. None where it is of something else.

    Raises:
        ValueError: it cannot be read. The text holds nothing of it, since it may hold a password.
    """
    if not url.startswith(CLUSTERS):
        return ()
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("RedisStoreSettings.url: cannot be read as a URL") from None
    hosts = [host for host in parts.netloc.rpartition("@")[2].split(",") if host]
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError(
            "RedisStoreSettings.url: a cluster has no databases but 0; nothing stands between its hosts and a question mark"
        )
    if not hosts:
        raise ValueError("RedisStoreSettings.url: a cluster needs one host at least: redis+cluster://HOST:PORT,HOST:PORT")
    return tuple(_host_and_port(host) for host in hosts)


def _host_and_port(text: str) -> tuple[str, int]:
    try:
        found = urlsplit(f"//{text}")
        host, port = found.hostname, found.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise ValueError("RedisStoreSettings.url: a host of a cluster is HOST:PORT, or [ADDRESS]:PORT for IPv6")
    return host, _PORT if port is None else port
