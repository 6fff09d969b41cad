import copy

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import param_groups_layer_decay

from gbif_platform.training.backbone import create_backbone
from gbif_platform.training.head import Network, classifier_name
from gbif_platform.training.optimisation import average_into, mixer, parameter_groups, rate_factor


@pytest.fixture(scope="module")
def network() -> Network:
    return create_backbone("test_resnet", 3, 32)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_nfnet"])
def test_rates_and_decay_of_each_layer_are_timms(backbone: str) -> None:
    plain = timm.create_model(backbone, num_classes=3)
    undecayed = plain.no_weight_decay() if hasattr(plain, "no_weight_decay") else ()
    of_timm = {
        id(parameter): (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(plain, 0.05, undecayed, layer_decay=0.5)
        for parameter in group["params"]
    }
    expected = {name: of_timm[id(parameter)] for name, parameter in plain.named_parameters()}
    ours = create_backbone(backbone, 3, 160)
    names = {id(parameter): name for name, parameter in ours.named_parameters()}
    classifier = classifier_name(ours.backbone)
    seen = {}
    for group in parameter_groups(ours, 0.01, 0.05, 0.5):
        for parameter in group["params"]:
            name = names[id(parameter)].replace("head.output", f"backbone.{classifier}", 1).removeprefix("backbone.")
            seen[name] = (group["lr"] / 0.01, group["weight_decay"])
    assert seen == {name: pytest.approx(pair) for name, pair in expected.items()}


def test_the_schedule_keeps_the_layers_rates_apart(network: Network) -> None:
    optimizer = torch.optim.AdamW(parameter_groups(network, 0.01, 0.05, 0.5))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, 2, 10))
    scales = [group["lr_scale"] for group in optimizer.param_groups]
    assert scales[0] == 1
    assert scales == sorted(scales, reverse=True)
    assert scales[-1] < 0.2
    for step in range(10):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.01 * rate_factor(step, 2, 10) * scale for scale in scales])
        optimizer.step()
        schedule.step()


def test_without_layer_decay_all_learn_at_one_rate(network: Network) -> None:
    groups = parameter_groups(network, 0.01, 0.05, 1.0)
    assert {group["lr"] for group in groups} == {0.01}
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_of_a_frozen_backbone_only_the_head_learns() -> None:
    network = create_backbone("test_resnet", 3, 32, hidden=4)
    network.freeze_backbone()
    groups = parameter_groups(network, 0.01, 0.05, 0.5)
    assert sum(len(group["params"]) for group in groups) == 4
    assert {group["lr"] for group in groups} == {0.01}


def test_the_average_follows_the_weights_and_the_statistics(network: Network) -> None:
    average = copy.deepcopy(network)
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for value in moved.state_dict().values():
            value.add_(1)
    average_into(average, moved, decay=0.75, step=10**6)
    before, now, target = network.state_dict(), average.state_dict(), moved.state_dict()
    for name, value in before.items():
        if value.is_floating_point():
            assert torch.allclose(now[name], 0.75 * value + 0.25 * target[name], atol=1e-6), name
        else:
            assert torch.equal(now[name], target[name]), name


def test_the_average_forgets_its_random_start_soon(network: Network) -> None:
    average, moved = copy.deepcopy(network), copy.deepcopy(network)
    with torch.no_grad():
        moved.head.output.bias.fill_(1)
        average.head.output.bias.fill_(0)
    for step in range(20):
        average_into(average, moved, decay=0.9999, step=step)
    assert float(average.head.output.bias[0].detach()) > 0.99


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_pictures_are_mixed_as_their_targets_say(mixup: float, cutmix: float) -> None:
    mix = mixer(mixup, cutmix)
    assert mix is not None
    images = torch.eye(4)[:, :, None, None].expand(4, 4, 16, 16)[:, :3].contiguous()  # picture i is channel i
    target = torch.eye(4)
    torch.manual_seed(5)
    mixed, shares = mix(images, target)
    torch.manual_seed(5)
    again, _ = mix(images, target)
    assert torch.equal(mixed, again)
    assert torch.allclose(shares.sum(1), torch.ones(4))
    assert torch.allclose(mixed.mean((2, 3)), shares[:, :3], atol=1e-6)
    assert torch.equal(target, torch.eye(4))


def test_nothing_is_mixed_unless_it_is_wished() -> None:
    assert mixer(0.0, 0.0) is None


@given(st.integers(1, 1000), st.data())
def test_the_rate_is_a_share_of_the_peak(total: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, total // 2))
    factors = [rate_factor(step, warmup, total) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1
    assert rate_factor(total, warmup, total) == 0
