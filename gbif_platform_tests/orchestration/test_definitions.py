"""The code location: what a dataset file becomes, what it must not load, and how mistakes are told."""

import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox

from gbif_platform.components import ImageDataset
from gbif_platform.dataset import parse_dataset
from gbif_platform.definitions import build_defs
from gbif_platform.orchestration.keys import asset_key, partitions_name
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings

PACKAGE = Path(__file__).resolve().parents[2] / "gbif_platform"
HEAVY = ("torch", "torchvision", "timm", "lightning", "mlflow", "matplotlib", "sklearn")
DAGSTER_ROOMS = ("components", "orchestration", "defs", "commands", "definitions", "cli")
TEXT = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: frogs
  source: {archive: frogs.zip}
  label: species
  owners: ["team:herpetology"]
  models:
    small: {backbone: resnet18}
    large: {backbone: resnet50}
"""


def python(code: str, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"GBIF_PLATFORM_HOME": str(home)}
    )
    return done.stdout.strip()


def test_loading_the_definitions_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import sys
import gbif_platform.definitions as location
location.defs()
print([name for name in {HEAVY!r} if name in sys.modules])"""
    assert python(code, tmp_path) == "[]"


def test_no_domain_module_imports_dagster(tmp_path: Path) -> None:
    modules = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in PACKAGE.rglob("*.py")]
    domain = [
        module.removesuffix(".__init__")
        for module in modules
        if module.split(".")[1] not in DAGSTER_ROOMS and not module.endswith("__main__")
    ]
    assert len(domain) > 60
    code = f"""
import importlib, sys
for name in {domain!r}:
    importlib.import_module(name)
print("dagster" in sys.modules)"""
    assert python(code, tmp_path) == "False"


@pytest.fixture
def definitions(tmp_path: Path) -> dg.Definitions:
    return build_defs(Platform(Settings(home=tmp_path)), [parse_dataset(TEXT, tmp_path / "frogs.yaml")])


def test_a_dataset_becomes_these_assets(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        "frogs/occurrences",
        "frogs/media_urls",
        "frogs/snapshot_changes",
        "frogs/taxa",
        "frogs/balanced_samples",
        "frogs/predicted_catalogue",
        "frogs/downloaded_images",
        "frogs/duplicate_images",
        "frogs/splits",
        "frogs/catalogue",
        "frogs/small/trained_model",
        "frogs/small/evaluation_metrics",
        "frogs/small/promotion",
        "frogs/small/model_report",
        "frogs/large/trained_model",
        "frogs/large/evaluation_metrics",
        "frogs/large/promotion",
        "frogs/large/model_report",
    }
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.group_name == "frogs"
        assert node.description
        assert node.kinds
        assert node.code_version
        assert node.owners == ["team:herpetology"]
        assert node.partitions_def == dg.DynamicPartitionsDefinition(name=partitions_name("frogs"))
        assert graph.get_check_keys_for_assets({key}), f"{key} has no check"


def test_models_hang_on_the_splits_and_not_on_each_other(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    assert graph.get(asset_key("frogs", "small/trained_model")).parent_keys == {asset_key("frogs", "splits")}
    assert graph.get(asset_key("frogs", "large/evaluation_metrics")).parent_keys == {
        asset_key("frogs", "splits"),
        asset_key("frogs", "large/trained_model"),
    }


def test_the_job_covers_the_whole_dataset(definitions: dg.Definitions) -> None:
    assert len(definitions.resolve_job_def("frogs_job").asset_layer.selected_asset_keys) == 18


def test_a_defs_yaml_is_loaded_by_dagster_itself() -> None:
    attributes = {"name": "frogs", "source": {"archive": "frogs.zip"}, "label": "species"}
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            ImageDataset, defs_yaml_contents={"type": "gbif_platform.components.ImageDataset", "attributes": attributes}
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (component, defs):
            assert component.dataset.source.archive.endswith("frogs.zip")
            assert Path(component.dataset.source.archive).is_absolute()
            assert len(list(defs.assets or [])) == 10


def test_a_mistake_in_a_defs_yaml_is_told_with_file_and_line() -> None:
    attributes = {
        "name": "frogs",
        "source": {"archive": "frogs.zip"},
        "label": "species",
        "sampling": {"policy": "fair"},
    }
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            ImageDataset, defs_yaml_contents={"type": "gbif_platform.components.ImageDataset", "attributes": attributes}
        )
        with (
            pytest.raises(Exception, match=r"defs\.yaml") as error,
            sandbox.load_component_and_build_defs(defs_path=path),
        ):
            pass
    told = str(error.value.__cause__)
    assert re.search(r"attributes\.sampling\.policy at .*defs\.yaml:5", told)
    assert "Input should be 'all', 'balanced', 'natural'" in told


def test_bad_data_raises_before_anything_is_recorded(tmp_path: Path, definitions: dg.Definitions) -> None:
    (tmp_path / "frogs.zip").write_bytes(b"no zip at all")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(partitions_name("frogs"), ["frogs-0123"])
        result = definitions.resolve_job_def("frogs_job").execute_in_process(
            instance=instance, partition_key="frogs-0123", raise_on_error=False
        )
        assert not result.success
        assert not result.get_asset_materialization_events()
        (failure,) = result.get_step_failure_events()
        assert "has no snapshot 'frogs-0123'" in failure.step_failure_data.user_failure_data.description
