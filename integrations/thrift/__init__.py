"""Thrift, by thriftpy2: a service as a back end of batches."""

from __future__ import annotations

from resilience.integrations.thrift.batch import ThriftBackend

__all__ = ["ThriftBackend"]
