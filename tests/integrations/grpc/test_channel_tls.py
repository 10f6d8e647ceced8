"""TLS and mutual TLS from files, with certificates made for the test, over real connections."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from resilience.integrations.grpc import Tls, connect, server_credentials
from resilience.testing import no_leaks_fixture
from tests.integrations.grpc.channel_peers import METADATA, WHO, serving

no_leaks = no_leaks_fixture(autouse=True)

NAME = "payments.internal"


class Files(NamedTuple):
    """One authority, and what it has certified."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @property
    def of_server(self) -> Tls:
        return Tls(certificate_file=self.server, key_file=self.server_key)

    @property
    def of_mutual_server(self) -> Tls:
        return Tls(self.ca, self.server, self.server_key)

    @property
    def of_client(self) -> Tls:
        return Tls(self.ca, self.client, self.client_key, server_name=NAME)


def issued(folder: Path) -> Files:
    authority = trustme.CA()
    files = Files(*(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key")))
    folder.mkdir(exist_ok=True)
    authority.cert_pem.write_to_path(str(files.ca))
    for identity, certificate, key in ((NAME, files.server, files.server_key), ("orders", files.client, files.client_key)):
        made = authority.issue_cert(identity, common_name=identity)
        made.private_key_pem.write_to_path(str(key))
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return issued(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return issued(tmp_path_factory.mktemp("others"))


def ask(target: str | list[str], tls: Any, method: str = WHO, **kwargs: Any) -> bytes:
    with connect(target, tls=tls, **kwargs) as channel:
        answer: bytes = channel.unary_unary(method)(b"", timeout=10)
        return answer


def refused(target: str, tls: Any) -> bool:
    with pytest.raises(grpc.RpcError) as caught:
        ask(target, tls)
    error: Any = caught.value
    return error.code() is grpc.StatusCode.UNAVAILABLE


# --- one side certified -------------------------------------------------------------------------------------------------------


def test_a_server_is_known_by_its_certificate(files: Files, others: Files) -> None:
    with serving(credentials=server_credentials(files.of_server)) as peer:
        assert ask(peer.address, Tls(files.ca, server_name=NAME)) == b"peer"
        assert refused(peer.address, Tls(others.ca, server_name=NAME)), "certified by somebody else"
        assert refused(peer.address, Tls(files.ca, server_name="orders.internal")), "another name"
        assert refused(peer.address, Tls(files.ca)), "the address is not in the certificate"
        assert refused(peer.address, Tls()), "not one of the authorities that gRPC ships"
        assert refused(peer.address, None), "plain text"


def test_credentials_made_with_grpc_will_do(files: Files) -> None:
    made = grpc.ssl_channel_credentials(files.ca.read_bytes())
    with serving(credentials=server_credentials(files.of_server)) as peer:
        assert ask(peer.address, made, options=[("grpc.default_authority", NAME)]) == b"peer"


def test_several_addresses_have_one_name(files: Files) -> None:
    with ExitStack() as stack:
        credentials = server_credentials(files.of_server)
        peers = [stack.enter_context(serving(name, credentials=credentials)) for name in ("a", "b")]
        addresses = [peer.address for peer in peers]
        channel = stack.enter_context(connect(addresses, tls=Tls(files.ca, server_name=NAME)))
        seen: set[bytes] = set()
        while len(seen) < 2:
            seen.add(channel.unary_unary(WHO)(b"", timeout=10))
        with pytest.raises(ValueError, match=r"Tls.server_name: needed with several addresses"):
            connect(addresses, tls=Tls(files.ca))
        with pytest.raises(ValueError, match=r"Tls.server_name: needed with several addresses"):
            connect(addresses, tls=grpc.ssl_channel_credentials())


# --- both sides certified -----------------------------------------------------------------------------------------------------


def test_a_client_is_known_by_its_certificate(files: Files, others: Files) -> None:
    with serving(credentials=server_credentials(files.of_mutual_server)) as peer:
        assert ask(peer.address, files.of_client) == b"peer"
        assert refused(peer.address, Tls(files.ca, server_name=NAME)), "no certificate"
        assert refused(peer.address, Tls(files.ca, others.client, others.client_key, server_name=NAME)), "of somebody else"


def test_a_server_demands_certificates_of_clients_unless_told_otherwise(files: Files) -> None:
    credentials = server_credentials(files.of_mutual_server, require_client_certificate=False)
    with serving(credentials=credentials) as peer:
        assert ask(peer.address, Tls(files.ca, server_name=NAME)) == b"peer"


# --- certificates that change -------------------------------------------------------------------------------------------------


@pytest.fixture
def renewed(tmp_path: Path) -> tuple[Files, Files]:
    """What a server is given, and what will be put in its place."""
    return issued(tmp_path / "now"), issued(tmp_path / "next")


@pytest.mark.may_leak("threads")  # whoever logs in a thread of the C core is noted by Python as a thread that never ends
def test_a_server_follows_its_files(renewed: tuple[Files, Files], caplog: pytest.LogCaptureFixture) -> None:
    now, after = renewed
    first_ca = now.ca.read_bytes()
    with serving(credentials=server_credentials(now.of_server)) as peer:
        assert ask(peer.address, Tls(now.ca, server_name=NAME)) == b"peer"

        after.server.replace(now.server)  # between the two renames the key is not that of the certificate
        with caplog.at_level(logging.ERROR, "resilience"):
            for _ in range(2):
                assert ask(peer.address, Tls(now.ca, server_name=NAME)) == b"peer"
        (record,) = caplog.records
        assert "those read before stay in force" in record.getMessage()
        assert f"{str(now.server_key)!r} is not the key of the certificate in {str(now.server)!r}" in record.getMessage()

        after.server_key.replace(now.server_key)
        assert ask(peer.address, Tls(after.ca, server_name=NAME)) == b"peer"
        assert now.ca.read_bytes() == first_ca
        assert refused(peer.address, Tls(now.ca, server_name=NAME)), "the certificate of before is gone"


def test_a_server_follows_the_authority_of_its_clients(renewed: tuple[Files, Files]) -> None:
    now, after = renewed
    trusted = now.ca.read_bytes()
    with serving(credentials=server_credentials(now.of_mutual_server)) as peer:
        assert ask(peer.address, now.of_client) == b"peer"
        now.ca.write_bytes(after.ca.read_bytes())
        before = now.ca.with_name("before.pem")
        before.write_bytes(trusted)
        assert refused(peer.address, Tls(before, now.client, now.client_key, NAME))
        assert ask(peer.address, Tls(before, after.client, after.client_key, NAME)) == b"peer"


def test_each_of_several_ports_follows(renewed: tuple[Files, Files]) -> None:
    now, after = renewed
    credentials = server_credentials(now.of_server)
    with serving(credentials=credentials) as one, serving(credentials=credentials) as two:
        after.server.replace(now.server)
        after.server_key.replace(now.server_key)
        for peer in (one, two, one):
            assert ask(peer.address, Tls(after.ca, server_name=NAME)) == b"peer"


@pytest.mark.may_leak("threads")
def test_a_file_that_is_gone_for_a_while_does_no_harm(renewed: tuple[Files, Files]) -> None:
    now, _ = renewed
    with serving(credentials=server_credentials(now.of_server)) as peer:
        now.server.rename(now.server.with_name("away"))
        assert ask(peer.address, Tls(now.ca, server_name=NAME)) == b"peer"
        now.server.with_name("away").rename(now.server)
        assert ask(peer.address, Tls(now.ca, server_name=NAME)) == b"peer"


# --- tokens -------------------------------------------------------------------------------------------------------------------


@pytest.mark.may_leak("threads")
def test_call_credentials_go_with_every_call(files: Files) -> None:
    token = grpc.access_token_call_credentials("a-token")
    with serving(credentials=server_credentials(files.of_server)) as peer:
        told = ask(peer.address, Tls(files.ca, server_name=NAME), METADATA, call_credentials=token)
        assert b"('authorization', 'Bearer a-token')" in told


def test_call_credentials_do_not_travel_unencrypted() -> None:
    with pytest.raises(ValueError, match="call_credentials: would travel unencrypted: give tls as well"):
        connect("127.0.0.1:1", call_credentials=grpc.access_token_call_credentials("a-token"))
    with pytest.raises(TypeError, match=r"call_credentials: must be a grpc.CallCredentials, got str"):
        connect("127.0.0.1:1", call_credentials="a-token")


# --- files that cannot be used ------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_used_is_named(files: Files, others: Files, tmp_path: Path) -> None:
    garbage, missing = tmp_path / "garbage.pem", tmp_path / "missing.pem"
    garbage.write_text("no certificate\n", encoding="utf-8")
    encrypted = tmp_path / "encrypted.pem"
    key = load_pem_private_key(files.client_key.read_bytes(), None)
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    told = {
        Tls(missing): f"Tls.ca_file: cannot read {str(missing)!r}: No such file or directory",
        Tls(tmp_path): f"Tls.ca_file: cannot read {str(tmp_path)!r}: Is a directory",
        Tls(garbage): f"Tls.ca_file: {str(garbage)!r} holds no certificate in PEM form",
        Tls(files.server_key): f"Tls.ca_file: {str(files.server_key)!r} holds no certificate in PEM form",
        Tls(None, files.client, missing): f"Tls.key_file: cannot read {str(missing)!r}: No such file or directory",
        Tls(None, garbage, files.client_key): f"Tls: no certificate in PEM form in {str(garbage)!r}, "
        f"or no private key in {str(files.client_key)!r}",
        Tls(None, files.client, garbage): f"Tls: no certificate in PEM form in {str(files.client)!r}, or no private key in "
        f"{str(garbage)!r}",
        Tls(None, files.client, others.client_key): f"Tls.key_file: {str(others.client_key)!r} is not the key of the certificate "
        f"in {str(files.client)!r}",
        Tls(None, files.client, encrypted): f"Tls.key_file: {str(encrypted)!r} is encrypted: give the key without a password",
    }
    for tls, text in told.items():
        with pytest.raises(ValueError) as caught:
            connect("127.0.0.1:1", tls=tls)
        assert str(caught.value) == text


def test_what_does_not_go_together_is_refused(files: Files) -> None:
    with pytest.raises(ValueError, match=r"Tls.key_file: needed with certificate_file"):
        Tls(certificate_file=files.client)
    with pytest.raises(ValueError, match=r"Tls.certificate_file: needed with key_file"):
        Tls(key_file=files.client_key)
    with pytest.raises(ValueError, match=r"Tls.certificate_file: a server needs a certificate"):
        server_credentials(Tls(files.ca))
    with pytest.raises(ValueError, match=r"Tls.server_name: is for channels"):
        server_credentials(Tls(files.ca, files.server, files.server_key, server_name=NAME))
    with pytest.raises(ValueError, match=r"Tls.ca_file: needed to require client certificates"):
        server_credentials(files.of_server, require_client_certificate=True)
    with pytest.raises(TypeError, match=r"tls: must be a Tls or a grpc.ChannelCredentials, got bool"):
        connect("127.0.0.1:1", tls=True)
    with pytest.raises(ValueError, match=r"go with Tls.server_name: give one of them only"):
        connect("127.0.0.1:1", tls=Tls(files.ca, server_name=NAME), options=[("grpc.default_authority", NAME)])
