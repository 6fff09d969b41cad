"""`gbif-platform doctor`: what is well here, what is not and what to do; what is safe to mend is mended."""

import json
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import click
from rich.markup import escape
from rich.table import Table

from gbif_platform.commands.shared import console, find_dataset
from gbif_platform.errors import PlatformError, explained, first_line
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings, load_settings

LITTLE_GB, TOO_LITTLE_GB = 10.0, 1.0
NETWORK_SECONDS = 3.0
PATIENCE_SECONDS, UPLOAD_SECONDS = 60.0, 900.0
SILENT_DAYS = 3.0
"""A run on another machine is taken for dead when it gave no sign for so long."""
Severity = Literal["ok", "warning", "error"]
MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[bold red]error[/]"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        name: of what was looked at.
        status: an error keeps the platform from working; a warning keeps it from something.
        found: what is the matter, and what was mended.
        next_step: what to do about it; may be empty.
    """

    name: str
    status: Severity
    found: str
    next_step: str = ""


@dataclass(frozen=True)
class Check:
    """What is looked at, how bad it is when that cannot be done, what to do then, and how long it may take."""

    name: str
    look: Callable[[], Finding]
    severity: Severity = "error"
    remedy: str = ""
    seconds: float = PATIENCE_SECONDS


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="For programs: {ok, findings: [{name, status, found, next_step}]}."
)
@click.option(
    "--silent-days", default=SILENT_DAYS, show_default=True, type=click.FloatRange(0),
    help="A run on another machine that gave no sign for so long is closed as killed.",
)  # fmt: skip
def doctor(as_json: bool, silent_days: float) -> None:
    """Look whether everything works here; exit code 1 when something does not.

    Mended on the way: a missing home, lake and object store are made, what MLflow missed is sent again, MLflow's and
    Dagster's runs whose process was killed are closed.
    """
    findings = examine(timedelta(days=silent_days))
    sick = any(finding.status == "error" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not sick, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        _print(findings)
    if sick:
        sys.exit(1)


def examine(silent: timedelta) -> list[Finding]:
    """Every finding; each check that fails or hangs is a finding too."""
    try:
        settings = load_settings()
    except PlatformError as error:
        return [Finding("settings", "error", error.cause, error.next_step)]
    findings = [_settings(settings), _in_time(Check("home", lambda: _home(settings)))]
    if findings[-1].status == "error":
        return findings
    platform = Platform(settings)
    checks = [
        Check("disk", lambda: _disk(settings.home)),
        Check("lake", lambda: _lake(platform), remedy="see gbif-platform status: another process may be writing"),
        Check("object store", lambda: _objects(platform), remedy="check the data setting and the AWS_* variables"),
        Check("dagster", _dagster, remedy=f"move {settings.home / 'dagster'} away to start with an empty history"),
        Check("mlflow", lambda: _mlflow(settings), severity="warning"),
        Check("journals", lambda: _journals(settings), severity="warning", seconds=UPLOAD_SECONDS),
        Check("mlflow runs", lambda: _mlflow_runs(settings, silent), severity="warning"),
        Check("champions", lambda: _champions(platform), severity="warning", seconds=UPLOAD_SECONDS),
        Check("torch", _torch, remedy="run make setup"),
        Check("pretrained weights", _hub, severity="warning", seconds=NETWORK_SECONDS),
        Check("gbif", lambda: _gbif(settings), severity="warning", seconds=NETWORK_SECONDS),
    ]
    return findings + [_in_time(check) for check in checks]


def _settings(settings: Settings) -> Finding:
    file = settings.home / "settings.toml"
    given = sorted(settings.model_fields_set - {"home"})
    where = f"{file} and the environment" if file.exists() else "the environment"
    return Finding("settings", "ok", f"{', '.join(given)} from {where}" if given else "every one has its default")


def _home(settings: Settings) -> Finding:
    from gbif_platform.orchestration.instance import prepare_home

    fresh = not settings.home.exists()
    prepare_home(settings)
    settings.datasets.mkdir(parents=True, exist_ok=True)
    return Finding("home", "ok", f"{settings.home}{', made just now' if fresh else ''}")


def _disk(home: Path) -> Finding:
    free = shutil.disk_usage(home).free / 1e9
    found = f"{free:,.1f} GB free at {home}"
    if free >= LITTLE_GB:
        return Finding("disk", "ok", found)
    return Finding(
        "disk",
        "error" if free < TOO_LITTLE_GB else "warning",
        found,
        "free space, run gbif-platform compact, or set GBIF_PLATFORM_HOME to another disk",
    )


def _lake(platform: Platform) -> Finding:
    tables = platform.lake.frame("SELECT count(*) AS n FROM stages")["n"][0]
    return Finding("lake", "ok", f"version {platform.lake.version()}, {tables:,} stages written")


def _objects(platform: Platform) -> Finding:
    key, data = f"doctor/{uuid.uuid4().hex}", b"gbif-platform doctor"
    platform.objects.put(key, data)
    read = platform.objects.get(key)
    platform.objects.delete(key)
    if read != data:
        return Finding(
            "object store", "error", f"{platform.objects.url} gave other bytes than it got", "check its disk or server"
        )
    return Finding("object store", "ok", f"{platform.objects.url} writes, reads and deletes")


def _dagster() -> Finding:
    import dagster as dg

    from gbif_platform.orchestration.instance import UNFINISHED, bury_dead_runs

    with dg.DagsterInstance.get() as instance:
        dead = bury_dead_runs(instance)
        going = len(instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)))
    mended = f"; {len(dead)} whose process was killed marked as failed" if dead else ""
    return Finding("dagster", "ok", f"{going} runs going on{mended}")


def _mlflow(settings: Settings) -> Finding:
    from gbif_platform.training.mlflow_access import SQLITE, ask, connect, shown

    uri = settings.tracking_uri
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        return Finding("mlflow", "ok", f"{uri} is made by the first training")
    count, trouble = ask(lambda: len(connect(uri).search_experiments()), PATIENCE_SECONDS)
    if trouble is not None:
        return Finding(
            "mlflow",
            "warning",
            f"{shown(uri)}: {trouble}",
            "start the server, or correct mlflow_uri; trainings go on without it and are sent by the next doctor",
        )
    return Finding("mlflow", "ok", f"{shown(uri)} answers, {count} experiments")


def _journals(settings: Settings) -> Finding:
    from gbif_platform.training.forwarding import replay
    from gbif_platform.training.journal import Journal, journals

    waiting = [folder for folder in journals(settings.home / "work" / "training") if not Journal(folder).whole]
    if not waiting:
        return Finding("journals", "ok", "MLflow has all of every training")
    troubles = [trouble for folder in waiting if (trouble := replay(folder, settings.tracking_uri))]
    if troubles:
        found = f"{len(troubles)} of {len(waiting)} wait for MLflow; {troubles[0]}"
        return Finding("journals", "warning", found, "run gbif-platform doctor again when MLflow can be reached")
    return Finding("journals", "ok", f"{len(waiting)} sent to MLflow just now")


def _mlflow_runs(settings: Settings, silent: timedelta) -> Finding:
    from gbif_platform.training.mlflow_access import SQLITE
    from gbif_platform.training.orphans import close_orphans

    uri = settings.tracking_uri
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        return Finding("mlflow runs", "ok", "none yet")
    going = _dagster_runs_going()
    closed, trouble = close_orphans(uri, lambda tags: _alive(tags, going, silent))
    if trouble is not None:
        return Finding("mlflow runs", "warning", trouble, "run gbif-platform doctor again when MLflow can be reached")
    if closed:
        names = ", ".join(orphan.name for orphan in closed)
        return Finding("mlflow runs", "ok", f"closed as KILLED, as nobody works on them: {names}")
    return Finding("mlflow runs", "ok", "none is RUNNING without a process")


def _champions(platform: Platform) -> Finding:
    """MLflow's aliases against the lake's decisions, which count."""
    from gbif_platform.steps.promotion import is_astray, move_alias
    from gbif_platform.steps.run import Run
    from gbif_platform.steps.trained_model import champion

    moved: list[str] = []
    troubles: list[str] = []
    for name, model in platform.lake.frame("SELECT DISTINCT dataset, model FROM promotions ORDER BY ALL").rows():
        try:
            dataset = find_dataset(platform.settings, name)
        except PlatformError:  # its file is gone or broken; dataset check tells that
            continue
        force = champion(Run(platform, dataset, ""), model)
        run = Run(platform, dataset, force["snapshot"] if force else "")
        if force and is_astray(run, model):
            trouble = move_alias(run, model, force["bundle"])
            (troubles if trouble else moved).append(f"{name}-{model}" + (f": {trouble}" if trouble else ""))
    if troubles:
        return Finding("champions", "warning", troubles[0], "run gbif-platform doctor again when MLflow can be reached")
    return Finding("champions", "ok", f"told to MLflow just now: {', '.join(moved)}" if moved else "as the lake says")


def _dagster_runs_going() -> dict[str, bool]:
    """Whether each run that Dagster knows goes on, by its id."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        return {run.run_id: not run.is_finished for run in instance.get_runs()}


def _alive(tags: dict[str, str], going: dict[str, bool], silent: timedelta) -> bool:
    """Whether somebody works on an MLflow run: its process, else its Dagster run, else it gave a sign lately."""
    from gbif_platform.training.forwarding import HEARTBEAT
    from gbif_platform.training.orphans import RUN_STARTED
    from gbif_platform.training.tracking import HOST, PID, STARTED

    if tags.get(HOST) == socket.gethostname():
        return _process_alive(tags.get(PID, ""), tags.get(STARTED, ""))
    if HOST not in tags and tags.get("run_id") in going:
        return going[tags["run_id"]]
    last = datetime.fromisoformat(tags.get(HEARTBEAT) or tags[RUN_STARTED])
    return datetime.now(UTC) - last < silent


def _process_alive(pid: str, started: str) -> bool:
    import psutil

    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(started)) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except (ValueError, psutil.NoSuchProcess):
        return False


def _torch() -> Finding:
    import torch

    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} CPUs"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Finding("torch", "ok", f"{', '.join(names)}; bf16 {'yes' if bf16 else 'no'}; {threads}")
    capabilities = torch.cpu.get_capabilities()
    bf16 = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return Finding("torch", "ok", f"no GPU: trains on the CPU, {threads}; bf16 {'yes' if bf16 else 'no'}")


def _hub() -> Finding:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    trouble = _unreachable(endpoint)
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no"):
        trouble = "HF_HUB_OFFLINE is set"
    if trouble is None:
        return Finding("pretrained weights", "ok", f"{endpoint} answers")
    return Finding(
        "pretrained weights",
        "warning",
        f"{endpoint} is out of reach: {trouble}",
        "pretrained: true works for weights in the local cache only; else give a weights file, or pretrained: false",
    )


def _gbif(settings: Settings) -> Finding:
    trouble = _unreachable(settings.gbif_url)
    if trouble is None:
        return Finding("gbif", "ok", f"{settings.gbif_url} answers")
    return Finding(
        "gbif",
        "warning",
        f"{settings.gbif_url} is out of reach: {trouble}",
        "check the network or gbif_url; archives and lists at hand work without GBIF",
    )


def _unreachable(url: str) -> str | None:
    """Why a server gives no answer; one that refuses the request answers too."""
    if not url.startswith(("http://", "https://")):
        return "not an http(s) URL"
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  the user's own setting, http(s) only
        urllib.request.urlopen(request, timeout=NETWORK_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return first_line(str(getattr(error, "reason", error)))
    return None


def _in_time(check: Check) -> Finding:
    """The finding of a check; one that fails or hangs is told of as well, and a thread that hangs is left behind."""
    from gbif_platform.training.mlflow_access import ask

    finding, trouble = ask(lambda: _guarded(check), check.seconds)
    return finding or Finding(check.name, check.severity, str(trouble), check.remedy)


def _guarded(check: Check) -> Finding:
    try:
        return check.look()
    except Exception as error:
        known = explained(error) or PlatformError(f"{type(error).__name__}: {first_line(str(error))}", check.remedy)
        return Finding(check.name, check.severity, known.cause, known.next_step)


def _print(findings: list[Finding]) -> None:
    table = Table("what", "", "found", "what to do", header_style="bold", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.name, MARKS[finding.status], escape(finding.found), escape(finding.next_step))
    console.print(table)
