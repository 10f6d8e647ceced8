"""No test of pools may leave threads, tasks or permits behind."""

from __future__ import annotations

from resilience.testing import no_leaks_fixture

no_leaks = no_leaks_fixture(autouse=True, wait_s=5.0)
