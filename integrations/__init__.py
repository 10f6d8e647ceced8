"""Guards for frameworks: one room a framework, imported as `resilience.integrations.<framework>`.

A room uses the public names of `resilience` only and imports its framework itself, so that no room needs another's
framework. The folder lies beside the package in the source tree and is packaged inside it. Under any other name its
modules would be second copies, with classes that no `except` and no `isinstance` of the first ones knows.
"""

from __future__ import annotations

if __name__ != "resilience.integrations":
    raise ImportError(
        f"this folder is the package 'resilience.integrations' and was imported as {__name__!r}. Write for example "
        "'from resilience.integrations.asgi import ResilienceMiddleware'; in a checkout, run 'pip install -e .' first.",
        name=__name__,
        path=__file__,
    )
