"""Whatever forwarding headers hold, they name one client: no exception, and no key that a client can choose for itself."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from resilience import Call
from resilience.layers.address import UNKNOWN, address_key, forwarded, is_trusted, networks, parse_address, x_forwarded_for
from resilience.layers.keys import hashed, key_function

PROXIES = ("10.0.0.0/8", "2001:db8:ffff::/48")
PEER = "10.1.1.1"
KEY = re.compile(r"unknown|[0-9.]{7,15}|[0-9a-f:]{2,39}/64")

LATIN1 = st.characters(max_codepoint=255)
PUNCTUATION = st.sampled_from([*"\"',;=:.[]%\\ \t", "::", "for=", "For = ", 'for="', "by=", "host=", "_hidden", "unknown"])
V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)
PORT = st.integers(0, 99_999)
ZONE = st.text(LATIN1, max_size=10)
ADDRESS = st.one_of(
    V4.map(str),
    V6.map(str),
    V6.map(lambda address: address.exploded),
    V4.map(lambda address: f"::ffff:{address}"),
    st.builds("{}:{}".format, V4, PORT),
    st.builds("[{}]".format, V6),
    st.builds("[{}]:{}".format, V6, PORT),
    st.builds("{}%{}".format, V6, ZONE),
    st.builds("[{}%{}]:{}".format, V6, ZONE, PORT),
    V4.map(lambda address: f'"{address}"'),
    V6.map(lambda address: f'"[{address}]:443"'),
    V4.map(lambda address: f"  {address}\t"),
)
GARBAGE = st.one_of(
    st.text(LATIN1, max_size=30),
    st.lists(st.one_of(PUNCTUATION, ADDRESS), max_size=8).map("".join),
    st.integers(1, 10_000).map(lambda count: "1" * count),
    st.sampled_from(["," * 10_000, '"' * 10_000, "[" * 10_000, ":" * 10_000, '\\"' * 5_000, ";for=" * 2_000, "10.2.2.2," * 1_000]),
)
MANY_HOPS = st.builds(lambda hops, count: ", ".join(hops * count), st.lists(ADDRESS, min_size=1, max_size=3), st.integers(100, 500))
VALUES = st.lists(st.one_of(ADDRESS, GARBAGE, MANY_HOPS), max_size=4)
TRUSTED_HOPS = st.lists(st.sampled_from(["10.2.2.2", "10.3.3.3:4711", '"[2001:db8:ffff::7]:443"', "::ffff:10.4.4.4"]), max_size=5)


class Request(Call):
    """A request from a trusted proxy."""

    __slots__ = ("_name", "_peer", "_values")

    def __init__(self, name: str, values: list[str], peer: str | None = PEER) -> None:
        super().__init__()
        self._name, self._values, self._peer = name, values, peer

    def peer(self) -> str | None:
        return self._peer

    def headers(self, name: str) -> list[str]:
        return self._values if name == self._name else []


BY_X_FORWARDED_FOR = key_function("client_address", PROXIES)
BY_FORWARDED = key_function("forwarded_address", PROXIES)


def key_of(values: list[str], peer: str | None = PEER) -> str:
    """The client behind X-Forwarded-For."""
    return BY_X_FORWARDED_FOR(Request("x-forwarded-for", values, peer))


def forwarded_key_of(values: list[str], peer: str | None = PEER) -> str:
    """The client behind Forwarded."""
    return BY_FORWARDED(Request("forwarded", values, peer))


@given(VALUES, st.one_of(st.just(PEER), ADDRESS, GARBAGE, st.none()))
def test_any_header_from_any_peer_names_one_client(values: list[str], peer: str | None) -> None:
    for key in (key_of(values, peer), forwarded_key_of(values, peer)):
        assert KEY.fullmatch(key), key
    if peer is None or not is_trusted(peer, networks(PROXIES)):
        assert key_of(values, peer) == forwarded_key_of(values, peer) == (UNKNOWN if peer is None else address_key(peer))


@given(st.one_of(ADDRESS, GARBAGE))
def test_any_text_is_an_address_or_none(text: str) -> None:
    address = parse_address(text)
    assert KEY.fullmatch(address_key(text))
    assert (address is None) == (address_key(text) == UNKNOWN)
    if isinstance(address, ipaddress.IPv6Address):
        assert address.ipv4_mapped is None
        assert address in ipaddress.ip_network(address_key(text))
    elif address is not None:
        assert address_key(text) == str(address)


@given(VALUES, VALUES, st.one_of(V4.map(str), V6.map(str)), TRUSTED_HOPS)
@example(['"'], ["6.6.6.6"], "198.51.100.1", [])
def test_what_stands_left_of_the_first_hop_that_is_no_proxy_changes_nothing(
    one: list[str], other: list[str], client: str, proxies: list[str]
) -> None:
    assume(not is_trusted(client, networks(PROXIES)))
    expected = address_key(client)
    for spoofed in ([], one, other):
        assert key_of([", ".join([*spoofed, client, *proxies])]) == expected
        assert key_of([*spoofed, client, *proxies]) == expected, "as header lines of their own"


@given(VALUES, st.one_of(V4.map(str), V6.map(lambda address: f'"[{address}]"')), TRUSTED_HOPS, st.booleans())
@example(['for="'], "198.51.100.1", [], False)
@example(["for=6.6.6.6;host=\\"], "198.51.100.1", [], False)
def test_nor_does_it_in_forwarded(spoofed: list[str], client: str, proxies: list[str], lines: bool) -> None:
    assume(not is_trusted(client, networks(PROXIES)))
    nearer = [f"for={client};proto=https", *(f"by=10.9.9.9;For={_quoted(hop)}" for hop in proxies)]
    values = [*spoofed, *nearer] if lines else [", ".join([*spoofed, *nearer])]
    assert forwarded_key_of(values) == address_key(client)


def _quoted(node: str) -> str:
    return node if node.startswith('"') else f'"{node}"'


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40), V4.map(str), st.booleans())
@example(", for=6.6.6.6", "198.51.100.1", True)
@example(";for=6.6.6.6;", "198.51.100.1", True)
@example('", for=6.6.6.6, x="', "198.51.100.1", False)
def test_nor_does_what_a_proxy_quotes_of_its_client_s(host: str, client: str, host_first: bool) -> None:
    assume(not is_trusted(client, networks(PROXIES)))
    quoted = '"' + host.replace("\\", "\\\\").replace('"', '\\"') + '"'
    pairs = [f"host={quoted}", f"for={client}"] if host_first else [f"for={client}", f"host={quoted}"]
    assert forwarded_key_of([";".join(pairs)]) == client


@given(VALUES)
def test_a_client_behind_a_hop_that_is_no_address_is_the_proxy_that_wrote_it(spoofed: list[str]) -> None:
    for junk in ("", "unknown", "_hidden", "localhost", "1.2.3", "1.2.3.4.5", "[]", "-"):
        assert key_of([", ".join([*spoofed, junk, "10.2.2.2"])]) == "10.2.2.2"
        assert forwarded_key_of([", ".join([*spoofed, f"for={junk}", "for=10.2.2.2"])]) == "10.2.2.2"


@given(VALUES)
def test_hops_are_read_in_order_and_none_is_lost(values: list[str]) -> None:
    hops = x_forwarded_for(values)
    assert "".join(hops) == "".join(part.strip() for value in values for part in value.split(","))
    assert len(forwarded(values)) <= len(hops)


@pytest.mark.parametrize("count", [99, 100, 101, 5_000])
def test_a_chain_of_proxies_longer_than_anybody_has_ends_at_a_proxy(count: int) -> None:
    chain = ["6.6.6.6", *["10.2.2.2"] * count]
    assert key_of([", ".join(chain)]) in ("6.6.6.6", "10.2.2.2")
    assert key_of(["7.7.7.7", *chain]) == key_of(chain)


@given(V6, st.integers(0, 2**64 - 1))
def test_all_of_a_host_s_ipv6_addresses_are_one_client(address: ipaddress.IPv6Address, host: int) -> None:
    assume(address.ipv4_mapped is None)
    other = ipaddress.IPv6Address(int(address) >> 64 << 64 | host)
    assume(other.ipv4_mapped is None)
    assert address_key(str(address)) == address_key(str(other))


@given(st.lists(st.text(LATIN1, max_size=20), max_size=5), st.lists(st.text(LATIN1, max_size=20), max_size=5))
@example(["a:b", "c"], ["a", "b:c"])
@example(["a,b"], ["a", "b"])
@example([""], [])
def test_different_header_values_are_different_keys(one: list[str], other: list[str]) -> None:
    key = key_function("header:x-api-key")
    keys = [key(Request("x-api-key", values)) for values in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    assert keys == [hashed(one), hashed(other)]
    assert all(len(found) == 32 for found in keys)


@given(st.text(max_size=200))
@example("\ud800")
@example("x" * 10_000)
def test_any_key_of_a_function_s_is_of_bounded_size(text: str) -> None:
    assert len(key_function(lambda call: text)(Call())) <= 64
