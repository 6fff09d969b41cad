from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from gbif_platform.training.backbone import PoolingError, WeightsError, create_backbone, load_matching
from gbif_platform.training.head import Head

SIZE = 64


def pictures(count: int = 2, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "backbone",
    [
        "test_resnet",
        "test_vit",
        "test_convnext",
        "test_efficientnet",
        "test_byobnet",
        "test_nfnet",
        "test_maxvit",
        "test_vit_relpos",
    ],
)
def test_logits_are_the_heads_of_the_embedding(backbone: str) -> None:
    size = 160 if backbone == "test_maxvit" else SIZE
    network = create_backbone(backbone, 5, size).eval()
    with torch.no_grad():
        embedding = network.embed(pictures(size=size))
        logits = network(pictures(size=size))
    assert embedding.ndim == 2
    assert logits.shape == (2, 5)
    assert torch.equal(network.head(embedding), logits)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_plain_timm_models_weights_give_the_same_answers(backbone: str) -> None:
    """Bundles of before hold a whole timm model, classifier and all."""
    arguments = {"img_size": SIZE} if backbone == "test_vit" else {}
    plain = timm.create_model(backbone, num_classes=5, **arguments).eval()
    network = create_backbone(backbone, 5, SIZE).eval()
    network.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.allclose(network(pictures()), plain(pictures()), atol=1e-6)


def test_a_classifier_that_is_a_convolution_fits() -> None:
    plain = timm.create_model("dpn48b", num_classes=3)
    assert plain.state_dict()["classifier.weight"].ndim == 4
    network = create_backbone("dpn48b", 3, 32)
    network.load_state_dict(plain.state_dict())
    assert torch.equal(network.head.output.weight, plain.state_dict()["classifier.weight"][:, :, 0, 0])


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_the_pooling_is_the_wished_one(backbone: str) -> None:
    answers = []
    for pooling in ("avg", "max", "avgmax"):
        torch.manual_seed(3)
        network = create_backbone(backbone, 5, SIZE, pooling=pooling).eval()
        with torch.no_grad():
            answers.append(network.embed(pictures()))
    assert not torch.allclose(answers[0], answers[1], atol=1e-3)
    if backbone == "test_resnet":  # the others normalise after pooling
        assert torch.allclose((answers[0] + answers[1]) / 2, answers[2], atol=1e-5)


def test_a_pooling_that_the_backbone_lacks_is_named() -> None:
    with pytest.raises(PoolingError, match="test_vit_relpos cannot pool by 'max'"):
        create_backbone("test_vit_relpos", 5, SIZE, pooling="max")


def test_the_hidden_layer_and_the_dropout_are_in_the_head() -> None:
    network = create_backbone("test_resnet", 5, SIZE, hidden=7, dropout=0.5)
    assert network.head.output.in_features == 7
    embedding = torch.ones(1, 96)
    assert not torch.equal(network.head(embedding), network.head(embedding))
    network.eval()
    assert torch.equal(network.head(embedding), network.head(embedding))
    plain = create_backbone("test_resnet", 5, SIZE, hidden=7)
    plain.load_state_dict(network.state_dict())  # dropout has no weights, so it changes no names


def test_a_frozen_backbone_stays_as_it_is() -> None:
    network = create_backbone("test_resnet", 5, SIZE)
    network.freeze_backbone()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    assert network.head.training
    optimizer = torch.optim.SGD([value for value in network.parameters() if value.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        network(pictures()).square().sum().backward()
        optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.output.weight", "head.output.bias"}


@pytest.mark.parametrize("kind", ["plain.pth", "plain.safetensors", "own.pth", "own.safetensors"])
def test_a_local_file_starts_the_backbone_under_any_head(tmp_path: Path, kind: str) -> None:
    source = create_backbone("test_resnet", 11, SIZE)
    plain = timm.create_model("test_resnet", num_classes=11)
    plain.load_state_dict(source.backbone.state_dict(), strict=False)
    state = {name: value.contiguous() for name, value in (plain if "plain" in kind else source).state_dict().items()}
    path = tmp_path / kind
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    loaded = create_backbone("test_resnet", 3, SIZE, str(path), pooling="avgmax", hidden=8, dropout=0.1)
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(loaded.backbone.state_dict()[name], value), name
    assert loaded.head.output.out_features == 3
    assert "state_dict" not in loaded.backbone.pretrained_cfg  # type: ignore[operator]
    with pytest.raises(WeightsError, match="do not fit test_byobnet"):
        create_backbone("test_byobnet", 3, SIZE, str(path))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_holds_no_weights_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match=f"{name} cannot be read"):
        create_backbone("test_resnet", 3, SIZE, str(tmp_path / name))


def test_pickled_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"conv1.weight": Trap()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError):
        create_backbone("test_resnet", 3, SIZE, str(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()


def test_a_warm_start_keeps_the_outputs_of_known_labels() -> None:
    old = create_backbone("test_resnet", 3, SIZE, hidden=7).eval()
    new = create_backbone("test_resnet", 4, SIZE, hidden=7).eval()
    start = new.head.output.weight.detach().clone()
    assert load_matching(new, old.state_dict(), ["ant", "bee", "cat"], ["cat", "dog", "ant", "eel"]) == 2
    with torch.no_grad():
        assert torch.equal(new(pictures())[:, [2, 0]], old(pictures())[:, [0, 2]])
    assert torch.equal(new.head.output.weight[[1, 3]], start[[1, 3]])


def test_a_warm_start_under_another_head_takes_the_backbone_alone() -> None:
    old = create_backbone("test_resnet", 2, SIZE).eval()
    new = create_backbone("test_resnet", 2, SIZE, hidden=7).eval()
    assert load_matching(new, old.state_dict(), ["ant", "bee"], ["ant", "bee"]) == 0
    assert torch.equal(new.embed(pictures()), old.embed(pictures()))
    with pytest.raises(WeightsError, match="does not fit"):
        load_matching(create_backbone("test_vit", 2, SIZE), old.state_dict(), ["ant", "bee"], ["ant", "bee"])


def test_a_head_with_other_numbers_of_labels_is_not_taken() -> None:
    assert Head(4, 3).take_rows(Head(4, 2).state_dict(), ["ant", "bee", "cat"], ["ant", "bee", "cat"]) == 0
