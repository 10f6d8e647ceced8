"""TLS from files, for channels and servers."""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc

log = logging.getLogger("resilience")

FilePath = str | os.PathLike[str]
Stamp = tuple[tuple[int, int, int] | None, ...]
"""When each file was changed last, its size and its inode; None for one that is not there."""
NOT_OURS: Final = ("TOO_SMALL", "TOO_WEAK")
"""What Python's own TLS minds in a certificate and gRPC's may not."""


class CertificateFiles(NamedTuple):
    """The content of the files of one side."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


@dataclass(frozen=True, slots=True)
class Tls:
    """Where the certificates of one side are: PEM files.

    Args:
        ca_file: the authorities that certify the other side; default those that gRPC ships, for a channel. A server that is given
            one demands certificates of its clients, unless told otherwise.
        certificate_file: the certificate of this side, followed by those between it and the authority. A server must have one; a
            channel needs one for mutual TLS.
        key_file: its private key, not encrypted.
        server_name: for a channel: the name that the server's certificate must have, and that is sent as the authority; default the
            host of the target. Needed with several addresses.

    Raises:
        ValueError: a certificate without its key, or a key without its certificate.
    """

    ca_file: FilePath | None = None
    certificate_file: FilePath | None = None
    key_file: FilePath | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            given, missing = ("certificate_file", "key_file") if self.key_file is None else ("key_file", "certificate_file")
            raise ValueError(f"Tls.{missing}: needed with {given}: a certificate and its private key go together")

    def read(self) -> CertificateFiles:
        """Read the files and look whether they are what they should be.

        Raises:
            ValueError: a file cannot be read, or is not what it should be; the text names it.
        """
        files = CertificateFiles(
            *(_read(getattr(self, setting), setting) for setting in ("ca_file", "certificate_file", "key_file"))
        )
        if files.ca is not None:
            _check_ca(files.ca, self.ca_file)
        if self.certificate_file is not None and self.key_file is not None:
            _check_pair(self.certificate_file, self.key_file)
        return files

    def stamp(self) -> Stamp:
        """What tells that a file has changed."""
        return tuple(_stamp(path) for path in (self.ca_file, self.certificate_file, self.key_file))


def _read(path: FilePath | None, setting: str) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"Tls.{setting}: cannot read {os.fspath(path)!r}: {error.strerror or error}") from error


def _stamp(path: FilePath | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        seen = Path(path).stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino


def _check_ca(content: bytes, path: FilePath | None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=content.decode("ascii", "ignore") or " ")
    except ssl.SSLError as error:
        _refuse(error, f"Tls.ca_file: {_shown(path)} holds no certificate in PEM form")


def _check_pair(certificate_file: FilePath, key_file: FilePath) -> None:
    """Python's own TLS says in words what gRPC's says by no handshake ever succeeding."""

    def no_password() -> str:
        raise ValueError(f"Tls.key_file: {_shown(key_file)} is encrypted: give the key without a password")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate_file, key_file, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            _refuse(error, f"Tls.key_file: {_shown(key_file)} is not the key of the certificate in {_shown(certificate_file)}")
        _refuse(error, f"Tls: no certificate in PEM form in {_shown(certificate_file)}, or no private key in {_shown(key_file)}")
    except OSError as error:  # gone since it was read
        raise ValueError(f"Tls: cannot read {_shown(certificate_file)} or {_shown(key_file)}: {error.strerror}") from error


def _refuse(error: ssl.SSLError, text: str) -> None:
    if not (error.reason or "").endswith(NOT_OURS):
        raise ValueError(text) from error


def _shown(path: FilePath | None) -> str:
    return repr(os.fspath(path)) if path is not None else "no file"


def channel_credentials(tls: Tls) -> Any:
    """The credentials of a channel, from its files as they are now; a channel does not follow them.

    Raises:
        ValueError: a file cannot be used; the text names it.
    """
    files = tls.read()
    return grpc.ssl_channel_credentials(files.ca, files.key, files.certificate)


def server_credentials(tls: Tls, *, require_client_certificate: bool | None = None) -> Any:
    """The credentials of a server: `server.add_secure_port("0.0.0.0:50051", server_credentials(Tls(...)))`.

    The files are followed: each new connection is greeted with what they hold then. While they cannot be used, or do not fit each
    other, those read before stay in force, and the log says so once.

    Args:
        tls: `certificate_file` and `key_file` of the server, and in `ca_file` the authorities that certify its clients.
        require_client_certificate: whether a client must show a certificate; default: if there is a `ca_file`.

    Raises:
        ValueError: no certificate, or client certificates without a `ca_file`, or a file that cannot be used.
    """
    if tls.certificate_file is None:
        raise ValueError("Tls.certificate_file: a server needs a certificate and its key")
    if tls.server_name is not None:
        raise ValueError("Tls.server_name: is for channels: a server's name is in its certificate")
    demands = tls.ca_file is not None if require_client_certificate is None else require_client_certificate
    if demands and tls.ca_file is None:
        raise ValueError("Tls.ca_file: needed to require client certificates: the authorities that certify the clients")
    followed = _Followed(tls)
    return grpc.dynamic_ssl_server_credentials(followed.configuration(), followed.newest, demands)


class _Followed:
    """A server's files, looked at before each handshake. gRPC asks from threads of its own, one after the other for each port."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._stamp = tls.stamp()
        self._files = tls.read()

    def configuration(self) -> Any:
        """What was read last, as gRPC takes it. It empties what it is given, so each time a new one."""
        return grpc.ssl_server_certificate_configuration([(self._files.key, self._files.certificate)], self._files.ca)

    def newest(self) -> Any:
        """What the files hold now, or held last where that cannot be used. Never None, for "no change": several ports may ask."""
        stamp = self._tls.stamp()
        if stamp != self._stamp:
            self._look(stamp)
        return self.configuration()

    def _look(self, stamp: Stamp) -> None:
        try:
            files = self._tls.read()
        except ValueError as error:
            self._stamp = stamp
            log.error("TLS files have changed and cannot be used, those read before stay in force: %s", error)
            return
        if self._tls.stamp() == stamp:  # else they changed while they were read: the next connection brings the whole
            self._files = files
            self._stamp = stamp
