"""The service config of a channel: calls go round all its servers, and nothing in it retries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

RETRIES: Final = ("retryPolicy", "hedgingPolicy")


def service_config_text(own: Mapping[str, Any] | None, *, wait_for_ready: bool) -> str:
    """The text of a channel's service config: the user's `own`, with `round_robin` and `wait_for_ready` where it says nothing else.

    No retries are put in, and none are taken: a pipeline's `Retry` knows the budget, the deadline and the health; the C core knows
    none of them, and two layers that retry multiply. gRPC's transparent retries (gRFC A6) stay on: they are for calls that no
    server has begun, such as those that cross a server's goodbye on the way.

    Raises:
        ValueError: `own` retries or hedges, or cannot be written as JSON.
    """
    if own is not None and not isinstance(own, Mapping):
        raise ValueError(f"service_config: must be a mapping, as json.loads returns it, got {type(own).__name__}")
    config = {"loadBalancingConfig": [{"round_robin": {}}], **(own or {})}
    methods = config.get("methodConfig", [])
    if not isinstance(methods, list) or not all(isinstance(method, Mapping) for method in methods):
        raise ValueError("service_config.methodConfig: must be a list of mappings")
    for place, method in enumerate(methods):
        for retries in RETRIES:
            if retries in method:
                raise ValueError(
                    f"service_config.methodConfig[{place}].{retries}: one layer retries, and that is the pipeline's Retry, which "
                    "knows the budget, the deadline and the health; take this out, or open this channel with grpc itself"
                )
    if wait_for_ready:
        methods = [{"waitForReady": True, **method} for method in methods]
        if not any(_is_default(name) for method in methods for name in method.get("name", [])):
            methods.append({"name": [{}], "waitForReady": True})
    if methods:
        config["methodConfig"] = methods
    try:
        return json.dumps(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"service_config: cannot be written as JSON: {error}") from None


def _is_default(name: Any) -> bool:
    """Whether a `name` of a service config stands for all methods."""
    return isinstance(name, Mapping) and not name.get("service") and not name.get("method")
