"""What a run was made with and on: versions, and the kind of machine. No name, no path, no address."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ALWAYS = ("resilience-middleware", "opentelemetry-api", "opentelemetry-sdk")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each package; "not installed" where it is not."""
    return {name: _version(name) for name in sorted({*_ALWAYS, *packages})}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def kind() -> str:
    """Such as "CPython 3.11.7, Linux x86_64, 2 cores of Intel(R) Xeon(R)"."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}"
    return f"{platform.python_implementation()} {platform.python_version()}, {system}, {cores} cores of {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "an unknown processor"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else "an unknown processor"
