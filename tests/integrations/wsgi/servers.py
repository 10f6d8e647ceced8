"""Real WSGI servers in processes of their own, on free ports of the loopback interface."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.integrations.asgi.server import TIMEOUT_S, Running
from tests.integrations.wsgi import served_config

ROOT: Final = Path(__file__).resolve().parents[3]
_APP: Final = "tests.integrations.wsgi.served:app"
_IMPORT: Final = "from tests.integrations.wsgi.served import app; "
_GUNICORN: Final = (
    *("-m", "gunicorn", _APP, "--bind", "fd://{fd}", "--graceful-timeout", "2", "--log-level", "warning", "--no-control-socket"),
)
_BY_NAME: Final[dict[str, tuple[str, ...]]] = {
    "gunicorn sync": _GUNICORN,
    "gunicorn gthread": (*_GUNICORN, "--worker-class", "gthread", "--threads", "8"),
    "gunicorn gevent": (*_GUNICORN, "--worker-class", "gevent"),
    "waitress": (
        "-c",
        _IMPORT + "import socket, waitress; waitress.serve(app, sockets=[socket.socket(fileno={fd})], threads=8)",
    ),
    "gevent": (
        "-c",
        "from gevent import monkey; monkey.patch_all(); "
        + _IMPORT
        + "import socket; from gevent import pywsgi; pywsgi.WSGIServer(socket.socket(fileno={fd}), app, log=None).serve_forever()",
    ),
    # It forks without telling Python of it: each worker loads the application by itself, and no thread of another's is in the way.
    "uwsgi": (
        *(
            "-c",
            "import sys, pyuwsgi; pyuwsgi.run(sys.argv[1:])",
            "--http-socket",
            "fd://{fd}",
            "--module",
            _APP,
            "--pp",
            str(ROOT),
        ),
        *("--master", "--processes", "1", "--lazy-apps", "--enable-threads", "--need-app", "--die-on-term", "--disable-logging"),
        *("--worker-reload-mercy", "2", "--socket-timeout", "30"),
    ),
}
NAMES: Final = tuple(_BY_NAME)


class WsgiServer(Running):
    """A server that runs."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        super().__init__(port)
        self.process = process
        self._log = log

    def printed(self) -> str:
        """What it printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def serving(forms: Mapping[str, Sequence[str]], folder: Path) -> Iterator[dict[str, WsgiServer]]:
    """Run servers until the block is left: each form is the name of a server and what is added to its command line.

    They start and stop side by side. Their ports are bound before, so that requests which come early wait.
    """
    config = folder / "resilience.yaml"
    config.write_text(served_config.CONFIG, encoding="utf-8")
    servers: dict[str, WsgiServer] = {}
    try:
        for number, (form, (name, *options)) in enumerate(forms.items()):
            log = folder / f"server-{number}.log"
            with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
                listener.setblocking(False)  # for uwsgi, which takes what it is given as it is
                process = _start(name, listener.fileno(), options, config, log)
                servers[form] = WsgiServer(listener.getsockname()[1], process, log)
        yield servers
    finally:
        for server in servers.values():
            server.process.terminate()
        for server in servers.values():
            _see_ended(server.process)


def _start(name: str, descriptor: int, options: Sequence[str], config: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [part.replace("{fd}", str(descriptor)) for part in (*_BY_NAME[name], *options)]
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {"SERVED_CONFIG": str(config), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[descriptor],
        )


def _see_ended(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
