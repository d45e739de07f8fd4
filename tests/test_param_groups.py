"""Which parameters an optimizer treats alike, beside groups written out by hand."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, FieldError
from gradlab.optimizers import OPTIMIZERS
from gradlab.param_groups import Group, build_optimizer, depths_of
from tiny import batches, choice, fit, mlp, normed, weights

PICTURES = DataSpec("pictures", (3, 32, 32), tuple("abcdefghij"), 100)
DECAYING = [
    name
    for name in OPTIMIZERS
    if name != "timm" and any(field.name.endswith("weight_decay") for field in dataclasses.fields(OPTIMIZERS[name]))  # type: ignore[arg-type]
]


class Sighted(nn.Module):
    """What a vision transformer has: a patch embedding, a token, positions, blocks in a list, a last norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.patch_embed = nn.Conv2d(3, 4, 4, 4)
        self.words = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(4, 1, 8) for _ in range(2)])
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10)


def names(groups: list[Group]) -> list[list[str]]:
    return [[name for name, _ in group.params] for group in groups]


def test_uniform_is_one_group_of_what_learns() -> None:
    model = mlp()
    model[1].weight.requires_grad_(False)  # type: ignore[index]
    (group,) = choice("param_groups", "uniform").of(model)
    assert names([group]) == [["1.bias", "3.weight", "3.bias"]]
    assert (group.lr_scale, group.decays) == (1.0, True)


def test_norm_biases_learn_faster_and_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 2))
    fast, others = choice("param_groups", "norm_biases", scale=64.0).of(model)
    assert names([fast, others]) == [
        ["1.bias", "3.bias"],
        ["0.weight", "0.bias", "1.weight", "3.weight", "4.weight", "4.bias"],
    ]
    assert (fast.lr_scale, fast.decays, others.lr_scale, others.decays) == (64.0, False, 1.0, True)
    (alike,) = choice("param_groups", "norm_biases").of(mlp())
    assert (alike.lr_scale, alike.decays) == (1.0, True)


def test_no_decay_exempts_vectors_embeddings_and_tokens() -> None:
    model = Sighted()
    exempt, decaying = choice("param_groups", "no_decay").of(model)
    assert (exempt.decays, decaying.decays) == (False, True)
    assert set(names([decaying])[0]) == {
        "patch_embed.weight",
        "head.weight",
        *(
            f"blocks.{block}.{layer}weight"
            for block in (0, 1)
            for layer in ("self_attn.in_proj_", "self_attn.out_proj.", "linear1.", "linear2.")
        ),
    }
    assert {"cls_token", "pos_embed", "words.weight", "norm.weight", "head.bias"} <= set(names([exempt])[0])
    assert len(exempt.params) + len(decaying.params) == len(list(model.parameters()))


@pytest.mark.parametrize("model", [mlp, normed, Sighted])
@pytest.mark.parametrize("name", ["uniform", "no_decay", "layerwise"])
def test_every_parameter_is_in_exactly_one_group(name: str, model: Any) -> None:
    built = model()
    found = [parameter for group in choice("param_groups", name).of(built) for _, parameter in group.params]
    assert len(found) == len({id(parameter) for parameter in found})
    assert {id(parameter) for parameter in found} == {id(parameter) for parameter in built.parameters()}


def test_depth_is_counted_from_the_output() -> None:
    depths = depths_of(Sighted())
    assert {name: depth for name, depth in depths.items() if name.startswith(("head", "norm"))} == {
        "norm.weight": 1, "norm.bias": 1, "head.weight": 0, "head.bias": 0,
    }  # fmt: skip
    assert depths["blocks.1.linear1.weight"] == depths["blocks.1.norm2.bias"] == 1
    assert depths["blocks.0.self_attn.in_proj_weight"] == 2
    assert depths["words.weight"] == 3
    assert depths["patch_embed.weight"] == depths["cls_token"] == depths["pos_embed"] == 4


def test_the_layers_of_our_models() -> None:
    def layers(name: str, **numbers: Any) -> int:
        return max(depths_of(choice("model", name, **numbers).build(PICTURES)).values()) + 1

    assert layers("logistic") == 1
    assert layers("mlp", hidden=[8, 8, 8]) == 4
    assert layers("lenet") == 5
    assert layers("cnn", channels=[4, 8]) == 5  # each BatchNorm with its convolution
    assert layers("resnet", depth=9) == 7  # stem, pool, residual, two pools, residual, linear
    assert layers("resnet", depth=20) == 11  # stem, nine blocks, linear


def test_a_shell_around_a_network_is_opened() -> None:
    shell = nn.Module()
    shell.inner = Sighted()
    depths = depths_of(shell)
    assert {name.removeprefix("inner."): depth for name, depth in depths.items()} == depths_of(Sighted())


@pytest.mark.parametrize("name", DECAYING)
@pytest.mark.parametrize("groups", ["no_decay", "layerwise"])
def test_every_optimizer_takes_groups(name: str, groups: str) -> None:
    model = normed()
    optimizer = choice("optimizer", name)
    chosen = choice("param_groups", groups, **({"decay_vectors": False} if groups == "layerwise" else {}))
    wanted = {id(p): group for group in chosen.of(model) for _, p in group.params}
    plain = {id(p): group for group in optimizer.build(model.named_parameters()).param_groups for p in group["params"]}
    built = build_optimizer(optimizer, chosen.of(model))
    seen = 0
    for group in built.param_groups:
        for parameter in group["params"]:
            mine, alone = wanted[id(parameter)], plain[id(parameter)]
            assert group["lr"] == group["base_lr"] == alone["lr"] * mine.lr_scale
            assert group["weight_decay"] == (alone["weight_decay"] if mine.decays else 0.0)
            # All else is as without groups: muon's matrices stay muon's.
            others = set(alone) - {"params", "param_names", "lr", "weight_decay"}
            assert {key: group[key] for key in others} == {key: alone[key] for key in others}
            seen += 1
    assert seen == len(list(model.parameters()))


@pytest.mark.parametrize("name", DECAYING)
def test_layerwise_steps_are_those_of_an_optimizer_for_each_layer(name: str) -> None:
    """Whatever the update: a layer's rate is its own optimizer's rate."""
    if name == "muon":
        pytest.skip("muon tells the final layer by its place among all")
    decay = 0.5
    grouped, alone = mlp(), mlp()
    optimizer = choice("optimizer", name)
    ours = build_optimizer(optimizer, choice("param_groups", "layerwise", decay=decay).of(grouped))
    first, last = alone[1], alone[3]  # type: ignore[index]
    theirs = [
        dataclasses.replace(optimizer, lr=optimizer.lr * decay).build(first.named_parameters()),
        optimizer.build(last.named_parameters()),
    ]
    for images, labels, *_ in batches(6):
        for model, optimizers in ((grouped, [ours]), (alone, theirs)):
            model.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            for each in optimizers:
                each.step()
    torch.testing.assert_close(weights(grouped), weights(alone), rtol=0, atol=1e-12)
    assert not torch.allclose(weights(grouped), weights(mlp()))


def test_no_decay_by_hand() -> None:
    """Decoupled decay shrinks matrices only: with no gradients, the rest stays where it is."""
    model = normed()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(
        choice("optimizer", "adamw", lr=0.1, weight_decay=0.5), choice("param_groups", "no_decay").of(model)
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        shrunk = 0.95 if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), shrunk * before[name], rtol=1e-12, atol=0)


def test_every_group_follows_the_schedule_from_its_own_rate() -> None:
    module, rows = fit(
        mlp(),
        choice("optimizer", "momentum", lr=0.1),
        10,
        param_groups=choice("param_groups", "layerwise", decay=0.5),
        schedule=choice("schedule", "cosine", warmup="0"),
    )
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.Optimizer)
    factor = module.learner.schedule.factor(9, module.learner.horizon)
    assert sorted(group["lr"] for group in optimizer.param_groups) == [0.05 * factor, 0.1 * factor]
    assert [row["lr"] for _, row in rows if "lr" in row][-1] == 0.1 * factor  # that of the last layer


def test_groups_without_an_effect_are_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Plain:
        name: str
        lr: float

    for groups in (choice("param_groups", "no_decay"), choice("param_groups", "layerwise", decay_vectors=False)):
        with pytest.raises(ConfigError, match="optimizer=plain has none"):
            groups.check(Plain("plain", 1.0))
        groups.check(choice("optimizer", "sgd", weight_decay=0.0))  # a sweep may pass through 0
    choice("param_groups", "layerwise", decay_vectors=True).check(Plain("plain", 1.0))


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0, float("nan")])
def test_a_wrong_decay_is_refused(decay: float) -> None:
    with pytest.raises(FieldError, match="decay"):
        choice("param_groups", "layerwise", decay=decay)
