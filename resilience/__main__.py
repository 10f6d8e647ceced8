"""`python -m resilience` is the command `resilience`."""

from __future__ import annotations

import sys

from resilience.command.entry import main

sys.exit(main())
