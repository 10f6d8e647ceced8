"""One file with a fault of every sort: each is reported, in the order of the file, each at its place."""

from __future__ import annotations

from tests.config.reading import faults

FILE = """\
version: 1.0
helth: {}
health:
  default: {cut: 150%, recover: 5, every: 1m, flor: 1}
deadlines:
  api: {default: 40s, max: 30s}
limiters:
  api: &api {rate: 100, burst: 010, health: spear}
  two: *api
  api: {rate: 1/s}
breakers:
  orders: {failure_rate: 150%, window: 10, min_calls: true}
  9lives: !!python/object:os.system {}
retries:
  out: {attempts: "3", on: [503, UNAVALABLE], budget: {tokens: 0}}
pipelines:
  api: [{limiter: apii}, {retry: out}, {retry: out}]
routes:
  - {match: {path: orders}, pipeline: api}
  - {match: {path: /a, methods: [get]}, pipeline: apj}
  - {pipeline: none}
store: {redis: {url: x}}
? [a]
: b
"""

FOUND = """\
1:10: version: must be a whole number, got '1.0'; write 1
2:1: helth: is unknown; did you mean 'health'?
4:18: health.default.cut: must be between 0 % and 99 %, got 150 %
4:33: health.default.recover: must be a share such as 70% or 0.7, got '5'; write 5% for a percentage
4:47: health.default.flor: is unknown; did you mean 'floor'?
6:18: deadlines.api.default: must be at most max (30.0 s), got 40.0 s
8:8: an anchor (&name) is not allowed; remove it
8:20: limiters.api.rate: must be a rate such as 100/s, 600/m or 5/10s, got '100'; say per what: 100/s
8:32: limiters.api.burst: must be a whole number, got '010'; YAML reads it as octal; write 10 or 8
8:45: limiters.api.health: no health signal is called 'spear'; there is default
9:8: an alias (*name) is not allowed; write the value out
10:3: limiters.api: is given twice, first on line 8
12:26: breakers.orders.failure_rate: must be above 0 % and at most 100 %, got 150 %
12:55: breakers.orders.min_calls: must be a whole number, got the truth value 'true'
13:3: breakers.'9lives': a name is at most 64 ASCII letters, digits, '_', '-' and '.', and begins with a letter or '_'
13:11: a tag (!name) is not allowed; remove it
15:19: retries.out.attempts: must be a whole number, got the text '3'; write it without quotes
15:34: retries.out.on[1]: 'UNAVALABLE' is unknown; did you mean 'UNAVAILABLE'?
15:64: retries.out.budget.tokens: must be between 1 and 1000, got 0
17:19: pipelines.api[0].limiter: no limiter is called 'apii'; did you mean 'api'?
17:40: pipelines.api[2]: retry 'out' is in this pipeline already, at [1]
19:20: routes[0].match.path: must begin with '/', got 'orders'
19:39: routes[0].pipeline: retry cannot guard a server's requests, and pipeline 'api' has retry 'out'; \
a request that has begun cannot be run again, so put the retry into a pipeline for calls going out
20:34: routes[1].match.methods[0]: methods are upper-case: write 'GET'
20:51: routes[1].pipeline: no pipeline is called 'apj'; did you mean 'api'?
21:5: routes[2].match: is missing: a mapping such as {path: /orders, methods: [GET]}
22:22: store.redis.url: must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://, got a text without ://
23:3: a key must be a word, got a list
"""


def test_every_fault_is_reported_in_the_order_of_the_file() -> None:
    assert faults(FILE) == FOUND.splitlines()
