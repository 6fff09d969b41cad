import re
from dataclasses import replace

import yaml

from gbif_platform.evaluation.card import model_card
from gbif_platform_tests.evaluation.reports import report_data


def front(card: str) -> dict:
    found = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_the_header_is_hugging_faces() -> None:
    data = replace(report_data(10), licences={"CC-BY-NC-4.0": 10, "CC-BY-4.0": 5, "CC0-1.0": 1})
    header = front(model_card(data, base_model="timm/resnet18.a1_in1k"))
    assert header["license"] == "cc-by-nc-4.0"
    assert header["pipeline_tag"] == "image-classification"
    assert header["datasets"] == ["https://doi.org/10.15468/dl.sand01"]
    assert header["base_model"] == "timm/resnet18.a1_in1k"
    [result] = header["model-index"][0]["results"]
    metrics = {metric["type"]: metric for metric in result["metrics"]}
    assert metrics["accuracy"]["args"]["confidence_interval_95"] == [
        round(data.summary[0].low or 0, 5), round(data.summary[0].high or 0, 5),
    ]  # fmt: skip
    assert result["dataset"]["revision"] == "10.15468/dl.sand01"


def test_the_card_says_what_it_is_for_what_it_is_worth_and_whose_pictures_it_has() -> None:
    data = report_data(200)
    card = model_card(data)
    titles = ("Intended use", "What it is worth", "Limits", "Labels without test data", "Licences", "How to cite")
    said = ("GBIF.org (15 January 2026)", "41\N{NO-BREAK SPACE}000", data.unevaluated[0])
    unseen = "Neither it nor a model that it was started from was trained or chosen on them"
    for part in (*(f"## {title}" for title in titles), *said, unseen):
        assert part in card, part
    top1 = next(line for line in card.splitlines() if line.startswith("| Top-1 accuracy |"))
    assert top1.count("%") == 4, "value, interval, and two baselines"


def test_a_licence_that_is_not_known_is_not_claimed() -> None:
    data = replace(report_data(10), licences={"CC-BY-4.0": 5, "unknown": 1})
    card = model_card(data)
    assert front(card)["license"] == "other"
    assert front(card)["license_name"] == "unknown"
    assert "no licence is known" in card
    assert front(model_card(data, licence="MIT"))["license_name"] == "mit"
    mixed = front(model_card(replace(data, licences={"CC-BY-SA-4.0": 1, "CC-BY-NC-4.0": 1})))
    assert mixed["license_name"] == "cc-by-nc-4.0-and-cc-by-sa-4.0"


def test_hostile_names_are_inert() -> None:
    evil = "---\n<script>alert(1)</script> | [x](javascript:alert(1)) `"
    data = replace(report_data(10), title=evil, dataset=evil, citations=[evil], card={evil: evil}, unevaluated=[evil])
    card = model_card(data)
    body = card.split("---\n", 2)[2]
    assert "<script>" not in body
    assert not re.search(r"(?<!\\)\]\(javascript", body)
    assert front(card)["model-index"][0]["name"] == " ".join(evil.split())
