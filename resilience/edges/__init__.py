"""What an integration is built from: the public floor on which every framework's room stands.

A room makes a `Call` of its own, admits it through a pipeline, settles it at the right moment, and turns refusals into answers.
"""

from __future__ import annotations

from resilience import clock as clocks
from resilience.call import CURRENT, Call, Outcome, Permit, SoleCall
from resilience.clock import NS_PER_US, US_PER_S
from resilience.drivers import adrive, drive, resumed, within
from resilience.edges.abandoned import ABANDONED, abandon, settle_abandoned
from resilience.edges.answers import (
    OUTWARD_DETAIL,
    RELAYED_DETAIL,
    Answer,
    Answers,
    ChangeAnswer,
    ratelimit_fields,
    refusal_answer,
    told_trace_id,
)
from resilience.edges.attempts import ATTEMPT_HEADER, HIGHEST_ATTEMPT
from resilience.edges.choice import Choose, Chosen, OutgoingPipelines
from resilience.edges.client import ClientExchange
from resilience.edges.codes import name_of_code
from resilience.edges.faults import Fault, fault_of, judge_relayed, register_translator, relayed_in
from resilience.edges.inbound import (
    INBOUND_HEADERS,
    InboundCall,
    answer_in_handler,
    ended_by,
    inbound_timeout_s,
    read_inbound,
    relayed_answer,
)
from resilience.edges.outgoing import OutgoingCall, OutgoingRequest, host_key
from resilience.edges.source import Guarded, RouteSource, open_source
from resilience.errors import refusal_in
from resilience.layers.base import Attempt, Effect
from resilience.layers.breaker.classify import judge_code, judge_error, judge_status
from resilience.layers.retry.advice import read_pushback
from resilience.layers.retry.on import RetryOn
from resilience.layers.retry.verdict import FAILURE, SUCCESS, Verdict, grpc_verdict, http_verdict
from resilience.layers.timeouts import grpc_timeout_s
from resilience.plan import Plan
from resilience.stage import settle_error
from resilience.stepped import SteppedPlan
from resilience.timers import CancelTimer, Slot, at_work, wheel_of
from resilience.tries import DetachedTry

__all__ = [
    "ABANDONED",
    "ATTEMPT_HEADER",
    "CURRENT",
    "FAILURE",
    "HIGHEST_ATTEMPT",
    "INBOUND_HEADERS",
    "NS_PER_US",
    "OUTWARD_DETAIL",
    "RELAYED_DETAIL",
    "SUCCESS",
    "US_PER_S",
    "Answer",
    "Answers",
    "Attempt",
    "Call",
    "CancelTimer",
    "ChangeAnswer",
    "Choose",
    "Chosen",
    "ClientExchange",
    "DetachedTry",
    "Effect",
    "Fault",
    "Guarded",
    "InboundCall",
    "Outcome",
    "OutgoingCall",
    "OutgoingPipelines",
    "OutgoingRequest",
    "Permit",
    "Plan",
    "RetryOn",
    "RouteSource",
    "Slot",
    "SoleCall",
    "SteppedPlan",
    "Verdict",
    "abandon",
    "adrive",
    "answer_in_handler",
    "at_work",
    "clocks",
    "drive",
    "ended_by",
    "fault_of",
    "grpc_timeout_s",
    "grpc_verdict",
    "host_key",
    "http_verdict",
    "inbound_timeout_s",
    "judge_code",
    "judge_error",
    "judge_relayed",
    "judge_status",
    "name_of_code",
    "open_source",
    "ratelimit_fields",
    "read_inbound",
    "read_pushback",
    "refusal_answer",
    "refusal_in",
    "register_translator",
    "relayed_answer",
    "relayed_in",
    "resumed",
    "settle_abandoned",
    "settle_error",
    "told_trace_id",
    "wheel_of",
    "within",
]
