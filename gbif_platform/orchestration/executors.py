"""What executes the steps of a run: setting `executor`."""

import os
import sys
from pathlib import Path

import dagster as dg

from gbif_platform.errors import PlatformError
from gbif_platform.settings import Settings

PASSED_ON = ("GBIF_PLATFORM_", "AWS_", "DAGSTER_HOME")


def step_executor(settings: Settings) -> dg.ExecutorDefinition:
    """The executor that the settings name; only `ray` imports Ray.

    Raises:
        PlatformError: Ray is chosen and not installed.
    """
    if settings.executor == "ray":
        return _on_ray(settings)
    if settings.executor == "in_process":
        return dg.in_process_executor
    return dg.multiprocess_executor.configured(
        {"start_method": {"forkserver": {"preload_modules": ["dagster", "gbif_platform.definitions"]}}}
    )


def _on_ray(settings: Settings) -> dg.ExecutorDefinition:
    """Every step a Ray job (https://docs.ray.io/en/latest/cluster/running-applications/job-submission).

    A job is told this process's settings and S3 credentials; Ray shows them to whoever may see the cluster's jobs.
    GBIF's account is not passed on.
    """
    try:
        from dagster_ray import ray_executor
    except ImportError as error:
        raise PlatformError(
            "setting executor = 'ray': Ray is not installed", "pip install 'gbif-platform[ray]', here and on every node"
        ) from error
    # a job's command is `dagster`, which lies beside our Python where no environment is activated
    path = f"PATH=${{PATH}}:{Path(sys.executable).parent}"
    names = [name for name in sorted(os.environ) if name.startswith(PASSED_ON)]
    config: dict[str, object] = {"env_vars": [path, *names]}
    if settings.ray_address:
        config["address"] = settings.ray_address
    return ray_executor.configured({"ray": config}, name="ray")
