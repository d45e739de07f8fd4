"""The look into the layers: exact numbers, and nothing of the training changed by it."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from gradlab.analysis.layers_figure import layers_figure
from gradlab.data.device import Batch
from gradlab.probe import dead_share, look, read_states
from processes import train


def small_batch(images: int = 8) -> Batch:
    draws = torch.Generator().manual_seed(1)
    return Batch(torch.randn(images, 1, 2, 2, generator=draws), torch.randint(0, 3, (images,), generator=draws))


def test_a_look_is_what_autograd_says() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(4, 5), nn.Linear(5, 3)
    batch = small_batch()
    states = look(nn.Sequential(nn.Flatten(), first, nn.ReLU(), second), batch, step=7)

    hidden = first(batch.images.flatten(1)).relu()
    logits = second(hidden)
    loss = nn.functional.cross_entropy(logits, batch.labels)
    of_hidden, of_logits, of_weight = torch.autograd.grad(loss, [hidden, logits, first.weight])
    assert [(state.step, state.depth, state.layer) for state in states] == [(7, 1, "1"), (7, 2, "3")]
    assert states[0].activation_mean == pytest.approx(hidden.mean().item(), rel=1e-5)
    assert states[0].activation_std == pytest.approx(hidden.std(correction=0).item(), rel=1e-5)
    assert states[0].gradient_mean == pytest.approx(8 * of_hidden.mean().item(), rel=1e-5)
    assert states[0].gradient_std == pytest.approx(8 * of_hidden.std(correction=0).item(), rel=1e-5)
    assert states[0].weight_std == pytest.approx(first.weight.std(correction=0).item(), rel=1e-5)
    assert states[0].weight_gradient_std == pytest.approx(of_weight.std(correction=0).item(), rel=1e-5)
    assert states[0].dead_share == (hidden == 0).all(0).float().mean().item()
    assert states[1].activation_std == pytest.approx(logits.std(correction=0).item(), rel=1e-5)
    assert states[1].gradient_std == pytest.approx(8 * of_logits.std(correction=0).item(), rel=1e-5)


def test_an_activation_in_place_gives_the_same() -> None:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)]
    in_place = copy.deepcopy(layers)
    in_place[2] = nn.ReLU(inplace=True)
    assert look(nn.Sequential(*layers), small_batch(), 0) == look(nn.Sequential(*in_place), small_batch(), 0)


def test_a_look_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
    )
    model.eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = look(model, small_batch(), 0)
    assert look(model, small_batch(), 0) == first
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("function", "rows", "share"),
    [
        (nn.ReLU(), [[0.0, 0.0, 1.0], [0.0, 2.0, 1.0]], 1 / 3),
        (nn.Tanh(), [[0.999, 0.999, 0.0], [-0.999, 0.5, 0.0]], 1 / 3),
        (nn.Sigmoid(), [[0.001, 0.5, 0.999], [0.999, 0.5, 0.999]], 2 / 3),
        (nn.GELU(), [[-0.1, -0.1, -0.1], [-0.1, -0.1, -0.1]], 0.0),
    ],
)
def test_dead_is_flat_for_every_image(function: nn.Module, rows: list[list[float]], share: float) -> None:
    assert dead_share(function, torch.tensor(rows)) == pytest.approx(share)


def test_a_channel_is_dead_where_all_its_pixels_are_and_a_feature_where_all_its_tokens_are() -> None:
    maps = torch.zeros(2, 3, 2, 2)
    maps[1, 0, 1, 1] = 1.0
    assert dead_share(nn.ReLU(), maps) == pytest.approx(2 / 3)
    assert dead_share(nn.ReLU(), maps.flatten(2).transpose(1, 2)) == pytest.approx(2 / 3)


def test_frozen_first_layers_still_have_activation_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model[1].requires_grad_(False)
    states = look(model, small_batch(), 0)
    assert states[0].gradient_std > 0
    assert states[0].weight_gradient_std == 0


def test_zeros_are_seen_as_zeros() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    first, second = look(model, small_batch(), 0)
    assert first.activation_std == first.gradient_std == second.activation_std == 0
    assert first.dead_share == 1
    assert layers_figure([first, second]).axes


def test_a_run_looks_in_its_rhythm_and_trains_the_same(tmp_path: Path) -> None:
    arguments = ["trainer.max_epochs=null", "trainer.max_steps=50", "tracking=none", "trainer.threads=1"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "probed").mkdir()
    plain = train(tmp_path / "plain", *arguments, "plots=false")
    probed = train(tmp_path / "probed", *arguments, "trainer.probe_every=20 steps")
    assert plain.status == probed.status == 0, probed.err
    assert plain.result["parameters_sha256"] == probed.result["parameters_sha256"]
    states = read_states(probed.run / "model" / "layer_states.csv")
    assert sorted({state.step for state in states}) == [0, 20, 40, 50]
    assert [state.depth for state in states if state.step == 40] == [1, 2, 3]
    assert all(math.isfinite(value) for state in states for value in vars(state).values() if isinstance(value, float))
    assert (probed.run / "plots" / "layers.png").stat().st_size > 10_000
    assert not (plain.run / "model" / "layer_states.csv").exists()
