"""What an httpx response, or the error of its `raise_for_status`, says of the service that answered."""

from __future__ import annotations

from typing import Any

from resilience.edges import Fault, register_translator
from resilience.integrations.httpx.library import RESPONSES, STATUS_ERRORS


def read_response(subject: object) -> Fault | None:
    """What the service has answered with; None for a response that says no error, and for anything else."""
    response: Any = subject.response if isinstance(subject, STATUS_ERRORS) else subject
    if not isinstance(response, RESPONSES):
        return None
    try:
        body = response.content
    except RuntimeError:  # it is a stream that nobody has read
        body = b""
    return Fault.of_problem(response.status_code, response.headers.multi_items(), body)


register_translator(read_response)
