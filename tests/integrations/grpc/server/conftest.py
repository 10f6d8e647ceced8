"""Every test here must leave the process as it found it."""

from __future__ import annotations

from resilience.testing import no_leaks_fixture

no_leaks = no_leaks_fixture(autouse=True)
