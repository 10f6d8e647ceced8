"""The demo: a service under load loses its dependency, falls to 30 % of its rate, and climbs back. Run by `make demo`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout: `examples` is not installed

from examples.demo_kit.load import Traffic
from examples.demo_kit.main import Demo, Files, main
from examples.demo_kit.processes import Service
from examples.demo_kit.story import Outage
from examples.demo_kit.verdict import Promise


def payment_service(files: Files) -> Service:
    """The payment service, on which every order service depends."""
    return Service("payments", "examples.asgi_app.payments:create_app", files.folder)


def order_environment(files: Files, payments: Service) -> dict[str, str]:
    """What an order service is told."""
    return {
        "PAYMENTS_URL": payments.url,
        "RESILIENCE_CONFIG": str(files.config),
        "SPANS_FILE": str(files.spans),
    }


def services(files: Files) -> tuple[Service, Service]:
    """The order service, and the payment service that it depends on."""
    payments = payment_service(files)
    environment = order_environment(files, payments)
    return Service("orders", "examples.asgi_app.app:from_environment", files.folder, environment), payments


DEMO = Demo(
    name="asgi_app",
    title="An order service in Starlette, guarded by resilience, loses its payment service and gets it back",
    config=Path(__file__).resolve().with_name("resilience.yaml"),
    shortened={"every: 1m": "every: 2s", "open_for: 30s": "open_for: 3s"},
    promise=Promise(rate_per_s=50.0, cut=0.7, recover=0.05, every_s=2.0),
    traffic=Traffic("/orders", {"item": "tea", "amount_cents": 1250}, per_s=80.0, customers=20, traced=7),
    outage=Outage(mended_after_s=4.5),
    services=services,
)

if __name__ == "__main__":
    sys.exit(main(DEMO))
