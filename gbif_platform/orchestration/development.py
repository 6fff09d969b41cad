"""`make dev`: the Dagster UI, its daemon and MLflow's UI as child processes of one command."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gbif_platform.errors import PlatformError
from gbif_platform.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]


def check_port(port: int, option: str) -> None:
    """Refuse a port that something listens on: a second `dagster dev` would run on half-started.

    Raises:
        PlatformError
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PlatformError(f"port {port} is in use", f"stop what listens there, or choose {option} N") from error


def serve(settings: Settings, port: int, mlflow_port: int, say: Callable[[str], None]) -> None:
    """Run both servers until Ctrl-C or SIGTERM, or until one of them ends."""
    check_port(port, "--port")
    check_port(mlflow_port, "--mlflow-port")
    # a script's background job starts with SIGINT ignored, and hands that down to its children
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    bin_folder = Path(sys.executable).parent
    dagster = [bin_folder / "dagster", "dev", "-w", PROJECT / "workspace.yaml", "-h", "127.0.0.1", "-p", port]
    mlflow = [
        bin_folder / "mlflow",
        "ui",
        "--backend-store-uri",
        settings.tracking_uri,
        "-h",
        "127.0.0.1",
        "-p",
        mlflow_port,
    ]
    (settings.home / "mlflow").mkdir(parents=True, exist_ok=True)
    log = (settings.home / "mlflow" / "ui.log").open("w")
    servers = [
        subprocess.Popen([str(part) for part in dagster], cwd=settings.home),  # noqa: S603  our own arguments
        subprocess.Popen([str(part) for part in mlflow], cwd=settings.home, stdout=log, stderr=log),  # noqa: S603
    ]
    say(f"Dagster http://127.0.0.1:{port}   MLflow http://127.0.0.1:{mlflow_port}   Ctrl-C ends both")
    try:
        while all(server.poll() is None for server in servers):
            time.sleep(0.5)
        raise PlatformError("one of the servers has ended", f"see the lines above, and {log.name}")
    except KeyboardInterrupt:
        say("stopping")
    finally:
        for server in servers:
            server.send_signal(signal.SIGINT)
        for server in servers:
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
