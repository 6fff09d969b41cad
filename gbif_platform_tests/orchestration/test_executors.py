"""What executes the steps: as the settings say, and Ray is touched only where it is chosen."""

import subprocess
import sys
from pathlib import Path

import pytest
from dagster._core.definitions.definition_config_schema import ConfiguredDefinitionConfigSchema

from gbif_platform.errors import PlatformError
from gbif_platform.orchestration.executors import step_executor
from gbif_platform.settings import Settings

LOADED = """
import sys
import gbif_platform.definitions as location
location.defs()
print([name for name in ("ray", "dagster_ray") if name in sys.modules])"""


def test_the_definitions_load_no_ray(tmp_path: Path) -> None:
    environment = {"GBIF_PLATFORM_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["multiprocess", "in_process", "ray"])
def test_the_setting_names_the_executor(tmp_path: Path, name: str) -> None:
    assert step_executor(Settings(home=tmp_path, executor=name)).name == name


def test_steps_on_ray_are_told_settings_and_never_gbifs_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GBIF_PLATFORM_HOME", "GBIF_PLATFORM_CATALOG", "AWS_ENDPOINT_URL", "GBIF_USER", "GBIF_PWD"):
        monkeypatch.setenv(name, "secret")
    executor = step_executor(Settings(home=tmp_path, catalog="", executor="ray", ray_address="http://head:8265"))
    assert isinstance(executor.config_schema, ConfiguredDefinitionConfigSchema)
    config = (executor.config_schema.resolve_config({}).value or {})["config"]["ray"]
    assert config["address"] == "http://head:8265"
    path, *names = config["env_vars"]
    assert path == f"PATH=${{PATH}}:{Path(sys.executable).parent}"
    assert {"GBIF_PLATFORM_HOME", "GBIF_PLATFORM_CATALOG", "AWS_ENDPOINT_URL"} <= set(names)
    assert not {"GBIF_USER", "GBIF_PWD"} & set(names)
    assert "secret" not in str(config)


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dagster_ray", None)
    with pytest.raises(PlatformError) as error:
        step_executor(Settings(home=tmp_path, executor="ray"))
    assert "gbif-platform[ray]" in error.value.next_step
