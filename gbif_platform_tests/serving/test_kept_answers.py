"""A prediction that is killed goes on where it was."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click.testing
import numpy as np
import pytest

from gbif_platform.commands.predict import predict
from gbif_platform.serving import predictor
from gbif_platform.serving.kept_answers import keep_part, read_parts
from gbif_platform.serving.pictures import FilePictures, Problem, transform_of
from gbif_platform.training.bundle import Bundle, with_calibration
from gbif_platform.training.predict import Inference
from gbif_platform_tests.serving.conftest import scene
from gbif_platform_tests.training.bundles import rewritten

KILLED = """
import os, signal, sys
from gbif_platform.commands.predict import predict
from gbif_platform.serving import predictor
from gbif_platform.serving.pictures import FilePictures

predictor.SAFE_SECONDS = 0.0
load = FilePictures.load


def deadly(pictures, place):
    if place == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return load(pictures, place)


FilePictures.load = deadly
predict(sys.argv[1:])
"""


def test_after_a_kill_9_what_was_answered_is_not_asked_again_and_the_file_is_the_same(
    bundle: Bundle, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(12):
        folder = write(f"{place:02}.png", scene(60 + place, 50)).parent
    (folder / "01.png").write_bytes(b"")
    monkeypatch.setenv("GBIF_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in this process
    asked: list[int] = []
    load = FilePictures.load

    def noted(pictures: FilePictures, place: int) -> bytes:
        asked.append(place)
        return load(pictures, place)

    monkeypatch.setattr(FilePictures, "load", noted)

    def arguments(file: Path) -> list[str]:
        return [str(bundle.folder), str(folder), "--to", str(file), "--batch-size", "2", "--threads", "1"]

    def answered(file: Path) -> str:
        asked.clear()
        result = click.testing.CliRunner().invoke(predict, arguments(file))
        assert result.exit_code == 0, result.output
        return result.stderr

    answered(tmp_path / "whole.jsonl")
    assert asked == list(range(12))
    cut = tmp_path / "cut.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments(cut)], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert not cut.exists()
    assert "from an earlier call" in answered(cut)
    assert asked == list(range(asked[0], 12))
    assert asked[0] >= 5, "pictures 0 to 4 were answered"
    assert cut.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list((tmp_path / "home" / "work" / "predict").iterdir()), "what was kept is gone"
    answered(cut)
    assert asked == list(range(12)), "a finished one is asked anew"


def test_another_model_other_pictures_or_options_are_another_call(
    bundle: Bundle, write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write("a.png", scene())
    copy = rewritten(bundle, tmp_path / "copy")

    def digest(*options: object) -> str:
        return predictor.call_digest(
            copy, FilePictures([("a", path), ("gone", tmp_path / "gone")], transform), *options
        )

    transform = transform_of(bundle)
    digests = [digest(5), digest(5), digest(6)]
    with_calibration(copy.folder, 2.0, 1.0)
    digests.append(digest(5))
    os.utime(path, ns=(1, 1))
    digests.append(digest(5))
    assert len(set(digests)) == 4
    assert digests[0] == digests[1]


def test_answers_that_cannot_be_kept_are_given_all_the_same(
    bundle: Bundle,
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(predictor, "SAFE_SECONDS", 0.0)
    pictures = FilePictures([(f"{place}", write(f"{place}.png", scene())) for place in range(3)], transform_of(bundle))
    (tmp_path / "full").write_bytes(b"no folder")
    found = predictor.answer(
        Inference(bundle), pictures, predictor.Reading(bundle), batch_size=1, folder=tmp_path / "full" / "parts"
    )
    assert (found.top >= 0).all()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_damaged_part_and_those_after_it_are_answered_anew(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    top, score = random.integers(0, 9, (7, 2), dtype=np.int32), random.random((7, 2), dtype=np.float32)
    problems = {1: Problem("b", "empty_body", "\udcff"), 5: Problem("f", "damaged")}
    for first, end in ((0, 2), (2, 6), (6, 7)):
        keep_part(tmp_path, first, top[first:end], score[first:end], problems, 1.5)

    def read() -> tuple[int, float, dict[int, Problem]]:
        tops, scores, told = np.zeros_like(top), np.zeros_like(score), dict[int, Problem]()
        done, seconds = read_parts(tmp_path, tops, scores, told)
        assert np.array_equal(tops[:done], top[:done])
        assert np.array_equal(scores[:done], score[:done])
        return done, seconds, told

    assert read() == (7, 4.5, problems)
    (tmp_path / "2.npz").write_bytes(b"PK torn")
    assert read() == (2, 1.5, {1: problems[1]})
    (tmp_path / "0.npz").unlink()
    assert read() == (0, 0.0, {})
