"""What a response of requests, or the error of its `raise_for_status`, says of the service that answered."""

from __future__ import annotations

from requests import HTTPError, Response

from resilience.edges import Fault, register_translator


def read_response(subject: object) -> Fault | None:
    """What the service has answered with; None for a response that says no error, and for anything else."""
    response = subject.response if isinstance(subject, HTTPError) else subject
    if not isinstance(response, Response):
        return None
    body = getattr(response, "_content", None)  # `content` would read one that is a stream from its connection
    return Fault.of_problem(response.status_code, response.headers.items(), body if isinstance(body, bytes) else b"")


register_translator(read_response)
