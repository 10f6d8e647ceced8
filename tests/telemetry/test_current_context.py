"""Where the current span is looked for: in the variable of OpenTelemetry, and by its public function where that is not in use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry import context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext

from resilience.telemetry import spans

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext


class Kept(ContextVarsRuntimeContext):
    '''Keeps the context in a plain list, and nothing in the variable that it has as well.'''

    def __init__(self):
        super().__init__()
        self.kept = [Context()]

    def attach(self, context):
        self.kept.append(context)
        return len(self.kept)

    def get_current(self):
        return self.kept[-1]

    def detach(self, token):
        self.kept.pop()


if sys.argv[1] == "kept elsewhere":
    context._RUNTIME_CONTEXT = Kept()

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from resilience import Deadline, Pipeline, Retry

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with trace.get_tracer("test").start_as_current_span("around"):
    Pipeline("p", Deadline(1.0), Retry(), Deadline(1.0)).call(str)
spans = exporter.get_finished_spans()
names = {span.context.span_id: span.name for span in spans}
print([(span.name, names[span.parent.span_id] if span.parent else None) for span in spans])
"""


@pytest.mark.parametrize("where", ["in the variable", "kept elsewhere"])
def test_spans_are_under_the_current_one_wherever_it_is_kept(where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, where],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    told = (
        "[('resilience.deadline', 'around'), ('resilience.deadline', 'resilience.retry'), ('resilience.retry', 'around'), "
        "('around', None)]\n"
    )
    assert (done.returncode, done.stdout) == (0, told), done.stderr


def test_the_variable_is_read_only_where_it_is_the_one_of_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = context._RUNTIME_CONTEXT._current_context  # type: ignore[attr-defined]
    assert spans._reader() == variable.get
    keeper = ContextVarsRuntimeContext()
    monkeypatch.setattr(context, "_RUNTIME_CONTEXT", keeper)
    keeper._current_context = None  # type: ignore[assignment]
    assert spans._reader() is context.get_current
    monkeypatch.delattr(context, "_RUNTIME_CONTEXT")
    assert spans._reader() is context.get_current
