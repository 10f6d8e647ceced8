"""Whose call it is: key sources, and addresses behind proxies."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies

from resilience import Call
from resilience.layers.address import UNKNOWN, address_key
from resilience.layers.keys import hashed, key_function


class Request(Call):
    """A request with a peer and headers."""

    __slots__ = ("_headers", "_peer")

    def __init__(self, peer: str | None, **headers: str | list[str]) -> None:
        super().__init__()
        self._peer = peer
        self._headers = {name.replace("_", "-"): [value] if isinstance(value, str) else value for name, value in headers.items()}

    def peer(self) -> str | None:
        return self._peer

    def headers(self, name: str) -> list[str]:
        return self._headers.get(name, [])


PROXIES = ("10.0.0.0/8", "2001:db8:ffff::/48")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "key"),
    [
        ("203.0.113.7", None, "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # who is no proxy is not believed
        ("10.1.1.1", None, "10.1.1.1"),
        ("10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("10.1.1.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),  # the rightmost that is no proxy
        ("10.1.1.1", "6.6.6.6, 198.51.100.1, 10.2.2.2", "198.51.100.1"),
        ("10.1.1.1", ["6.6.6.6", "198.51.100.1,10.2.2.2"], "198.51.100.1"),  # several lines are one list
        ("10.1.1.1", "10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("10.1.1.1", "6.6.6.6, junk, 10.2.2.2", "10.2.2.2"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.1.1.1", "[2001:db8::1]:4711", "2001:db8::/64"),
        ("2001:db8:ffff::1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", None, "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", None, "203.0.113.7"),
        ("::ffff:10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("fe80::1%eth0", None, "fe80::/64"),
        (None, "198.51.100.1", "unknown"),
        ("unix:/run/app.sock", None, "unknown"),
        ("10.1.1.1", ", ".join(["10.2.2.2"] * 5_000), "10.2.2.2"),
    ],
)
def test_client_addresses(peer: str | None, forwarded_for: str | list[str] | None, key: str) -> None:
    headers = {} if forwarded_for is None else {"x_forwarded_for": forwarded_for}
    assert key_function("client_address", PROXIES)(Request(peer, **headers)) == key


@pytest.mark.parametrize(
    ("forwarded", "key"),
    [
        ("for=198.51.100.1", "198.51.100.1"),
        ('for="[2001:db8::1]:4711";proto=https', "2001:db8::/64"),
        ("for=6.6.6.6, proto=https;For=198.51.100.1;by=10.1.1.1", "198.51.100.1"),
        ("for=6.6.6.6, by=10.1.1.1", "10.1.1.1"),
        ("for=_hidden", "10.1.1.1"),
        ('for=198.51.100.1;host="a, for=6.6.6.6"', "198.51.100.1"),  # what a proxy quotes of its client's is no element
        ('host="a;for=6.6.6.6";for=198.51.100.1', "198.51.100.1"),
        ('host="a\\", for=6.6.6.6, x=\\"";for=198.51.100.1', "198.51.100.1"),
        ('for="6.6.6.6, for=198.51.100.1', "198.51.100.1"),  # nor does a quote that the client left open hide what follows
        ('for=6.6.6.6;host="a\\, for=198.51.100.1', "198.51.100.1"),
        ("for=" + "1" * 1_000, "10.1.1.1"),
    ],
)
def test_forwarded_only_where_it_is_chosen(forwarded: str, key: str) -> None:
    request = Request("10.1.1.1", forwarded=forwarded, x_forwarded_for="7.7.7.7")
    assert key_function("forwarded_address", PROXIES)(request) == key
    assert key_function("client_address", PROXIES)(request) == "7.7.7.7"


def test_without_trusted_proxies_nobody_is_believed() -> None:
    request = Request("127.0.0.1", x_forwarded_for="198.51.100.1", forwarded="for=198.51.100.2")
    assert key_function("client_address")(request) == key_function("forwarded_address")(request) == "127.0.0.1"


def test_header_keys_are_hashed_with_their_lengths() -> None:
    key_of = key_function("header:X-Api-Key")
    keys = {key_of(Request(None, x_api_key=values)) for values in (["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], [])}
    assert len(keys) == 5
    assert all(len(str(key)) * 4 >= 128 for key in keys)
    assert not any("abc" in str(key) for key in keys)
    assert key_of(Request(None)) == key_of(Request("10.1.1.1"))
    assert hashed(["\udcff"]) != hashed(["\udcfe"]), "what no encoding allows is a key all the same"


@pytest.mark.parametrize("source", ["cookie", "header:", "header:a b", "header:a\n", "CLIENT_ADDRESS"])
def test_unknown_sources_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match="key: "):
        key_function(source)


@given(strategies.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){2,4}", fullmatch=True) | strategies.ip_addresses().map(str))
def test_an_address_is_told_apart_as_the_standard_library_reads_it(text: str) -> None:
    """Addresses of IPv4 are not parsed: what looks like one and is none, such as 1.2.3.256 or 1.2.3.04, must not pass for one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        assert address_key(text) == UNKNOWN
    else:
        if isinstance(address, ipaddress.IPv4Address):
            assert address_key(text) == text == str(address)
        elif address.ipv4_mapped is not None:
            assert address_key(text) == str(address.ipv4_mapped)
        else:
            assert address_key(text).endswith("::/64")
