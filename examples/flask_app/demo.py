"""The same demo with the order service in Flask under gunicorn. Run by `make demo-flask`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout: `examples` is not installed

from examples.asgi_app import demo
from examples.demo_kit.main import Files, main
from examples.demo_kit.processes import Service


def services(files: Files) -> tuple[Service, Service]:
    """The order service in Flask, and the payment service that it depends on."""
    payments = demo.payment_service(files)
    environment = demo.order_environment(files, payments)
    orders = Service("orders", "examples.flask_app.app:from_environment", files.folder, environment, server="gunicorn")
    return orders, payments


DEMO = dataclasses.replace(
    demo.DEMO,
    name="flask_app",
    title="An order service in Flask under gunicorn, guarded by resilience, loses its payment service and gets it back",
    services=services,
)

if __name__ == "__main__":
    sys.exit(main(DEMO))
