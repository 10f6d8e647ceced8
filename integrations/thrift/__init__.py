"""Thrift, by thriftpy2: a service as a back end of batches."""

from __future__ import annotations

try:
    from resilience.integrations.thrift.batch import ThriftBackend
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "thriftpy2":
        raise
    raise ImportError(
        "resilience.integrations.thrift needs thriftpy2: pip install 'resilience-middleware[thrift]'", name="thriftpy2"
    ) from error

__all__ = ["ThriftBackend"]
