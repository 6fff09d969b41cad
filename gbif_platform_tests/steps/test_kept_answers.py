"""Answers that the lake names no more are found, and no others."""

from datetime import timedelta
from pathlib import Path

import pytest

from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.steps.kept_answers import unneeded_answers
from gbif_platform_tests.commands import Home

NOW = timedelta(0)
ASKED, LOGITS = "asked.json", "logits.npy"
MODEL = "d/s/m-v2"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A model that was trained and asked twice; what came of the first time lies there still."""
    home = Home(tmp_path / "home", monkeypatch)
    platform = home.platform
    for model, digest in (("d/s/m-v1", "a"), (MODEL, "a"), (MODEL, "b")):
        for name in (LOGITS, ASKED):
            platform.objects.put(f"answers/{model}/{digest}/{name}", b"1234")
    for place in ("d/s/m-v1/e1", f"{MODEL}/e1", f"{MODEL}/e2"):
        platform.objects.put(f"evaluations/{place}/evaluation.json", b"{}")
    platform.objects.put(f"bundles/{MODEL}/model.safetensors", b"weights")
    with platform.lake.transaction("test", "a model") as con:
        own = "'d' AS dataset, 's' AS snapshot"
        con.execute(f"INSERT INTO lake.models BY NAME SELECT {own}, 'm' AS model, 'bundles/{MODEL}' AS bundle")
        con.execute(
            f"INSERT INTO lake.stages BY NAME SELECT {own}, 'm/evaluation_metrics' AS stage, 'e2' AS version "
            f"UNION ALL SELECT {own}, 'other/evaluation_metrics', 'e1'"
        )
        con.execute(f"INSERT INTO lake.predictions BY NAME SELECT {own}, 'm' AS model, 'answers/{MODEL}/b' AS answers")
    return home


def keys(platform: Platform, grace: timedelta) -> list[str]:
    return [entry.key for entry in unneeded_answers(platform.lake, platform.objects, grace)]


def test_what_no_row_names_goes_the_mark_of_wholeness_first(home: Home) -> None:
    assert keys(home.platform, NOW) == [
        f"answers/d/s/m-v1/a/{ASKED}",
        f"answers/d/s/m-v1/a/{LOGITS}",
        f"answers/{MODEL}/a/{ASKED}",
        f"answers/{MODEL}/a/{LOGITS}",
        "evaluations/d/s/m-v1/e1/evaluation.json",
        f"evaluations/{MODEL}/e1/evaluation.json",
    ]


def test_what_is_young_stays(home: Home) -> None:
    assert keys(home.platform, timedelta(hours=1)) == []


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    platform = Platform(Settings(home=tmp_path))
    assert keys(platform, NOW) == []
    platform.lake.close()


def test_compact_deletes_them_and_leaves_bundles(home: Home) -> None:
    planned = home("compact", "--dry-run", "--grace-days", "0")
    assert "files of answers to delete" in planned.stdout
    assert len(keys(home.platform, NOW)) == 6
    done = home("compact", "--grace-days", "0")
    assert done.exit_code == 0, done.stderr
    assert keys(home.platform, NOW) == []
    assert home.platform.objects.exists(f"answers/{MODEL}/b/{LOGITS}")
    assert home.platform.objects.exists(f"bundles/{MODEL}/model.safetensors")
