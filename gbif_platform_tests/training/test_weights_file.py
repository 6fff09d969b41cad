import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from gbif_platform.training.weights_file import weights_digest


def test_the_digest_is_of_the_content_under_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"first")
    assert weights_digest(str(tmp_path / "w.safetensors")) == hashlib.sha256(b"first").hexdigest()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_digest("~/w.safetensors") == hashlib.sha256(b"first").hexdigest()
    (tmp_path / "w.safetensors").write_bytes(b"other")
    assert weights_digest("~/w.safetensors") == hashlib.sha256(b"other").hexdigest()


@pytest.mark.parametrize("pretrained", [False, True, "/no/such/file.pth", "/tmp"])
def test_what_is_no_file_has_none(pretrained: object) -> None:
    assert weights_digest(pretrained) is None


def test_asking_loads_no_torch() -> None:
    code = "import sys, gbif_platform.training.weights_file; print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "False"
