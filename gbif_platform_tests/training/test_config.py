import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gbif_platform.training.backbone import (
    PictureSizeError,
    UnknownBackboneError,
    WeightsError,
    check_backbone,
    create_backbone,
    preprocess_for,
)
from gbif_platform.training.config import ModelSpec


def test_every_field_has_a_default_and_a_description() -> None:
    ModelSpec()
    assert [name for name, field in ModelSpec.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("mistake", [{"epoch": 3}, {"epochs": 0}, {"learning_rate": 0}, {"loss": "mse"}])
def test_a_mistake_is_refused(mistake: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelSpec(**mistake)


def test_reading_a_spec_loads_no_torch() -> None:
    code = (
        "import sys, gbif_platform.training.config; print([m for m in ('torch', 'timm', 'mlflow') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "close"), [("resnet81", "resnet18"), ("resnet18.a9_in1k", "resnet18.a1_in1k")])
def test_an_unknown_backbone_is_answered_with_close_names(name: str, close: str) -> None:
    with pytest.raises(UnknownBackboneError, match=close):
        check_backbone(name)


def test_the_size_is_the_backbones_own_unless_given() -> None:
    assert preprocess_for("resnet18").size == 224
    assert preprocess_for("resnet18", 96).size == 96


def test_a_transformer_takes_another_size() -> None:
    create_backbone("test_vit3", 2, 96)


def test_a_size_that_the_backbone_cannot_take_is_named() -> None:
    with pytest.raises(PictureSizeError, match="test_vit4 cannot take pictures of 100 px"):
        create_backbone("test_vit4", 2, 100)


def test_pretrained_weights_out_of_reach_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(WeightsError, match="out of reach") as error:
        create_backbone("test_vit4", 2, 64, pretrained=True)
    assert "pretrained" in error.value.next_step


def test_a_weights_file_is_loaded_and_its_head_replaced(tmp_path_factory: pytest.TempPathFactory) -> None:
    import torch

    path = tmp_path_factory.mktemp("weights") / "w.pth"
    source = create_backbone("test_resnet", 1000, 64)
    torch.save(source.state_dict(), path)
    loaded = create_backbone("test_resnet", 3, 64, pretrained=str(path))
    assert torch.equal(loaded.state_dict()["backbone.conv1.0.weight"], source.state_dict()["backbone.conv1.0.weight"])
    with pytest.raises(WeightsError, match="do not fit"):
        create_backbone("test_byobnet", 3, 64, pretrained=str(path))
    with pytest.raises(WeightsError, match="does not exist"):
        create_backbone("test_resnet", 3, 64, pretrained="/nowhere.pth")


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=60) | st.binary(max_size=30).map(b"\x80\x02".__add__), st.sampled_from([".pth", ".safetensors"])
)
@example(b"\x80\x02h\x9f", ".pth")  # KeyError in torch's unpickler
@example(b"\x80\x02Q", ".pth")  # IndexError
@example(b"\x80\x02X", ".pth")  # struct.error
def test_a_file_of_junk_is_named_whatever_is_in_it(junk: bytes, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"junk{ending}")
        path.write_bytes(junk)
        with pytest.raises(WeightsError, match=re.escape(str(path))):
            create_backbone("test_resnet", 3, 32, pretrained=str(path))
