"""Settings for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# No time limit an example: machines differ, and no test here is about speed. The same examples on every run of a build.
settings.register_profile("project", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("project")
