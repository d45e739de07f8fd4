"""timm's optimizers by name: beside timm itself, and what is refused before anything is made."""

from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch.nn import functional as F

from gradlab.checkpoints import load_checkpoint, save_checkpoint
from gradlab.errors import ConfigError, FieldError
from gradlab.optimizers.timm import Timm
from gradlab.param_groups import build_optimizer
from tiny import From, batches, choice, fit, mlp, weights

USABLE = [
    name
    for name in list_optimizers()
    if not isinstance(get_optimizer_info(name).opt_class, str) and not get_optimizer_info(name).second_order
]


def timm(opt: str, lr: float = 0.01, weight_decay: float = 0.0, **options: Any) -> Timm:
    return Timm("timm", opt, lr, weight_decay, options)


@pytest.mark.parametrize(
    ("opt", "options"),
    [
        ("adabelief", {}),
        ("adabelief", {"eps": 1e-6, "rectify": True, "betas": [0.8, 0.9]}),
        ("adan", {"betas": [0.9, 0.8, 0.7]}),
        ("lars", {"trust_coeff": 0.1}),
        ("sgdp", {"momentum": 0.5}),
    ],
)
def test_it_is_timms_own(opt: str, options: dict[str, Any]) -> None:
    plain = mlp()
    numbers = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    optimizer = create_optimizer_v2(list(plain.parameters()), opt=opt, lr=0.01, weight_decay=0.1, **numbers)
    for images, labels, *_ in batches(10):
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        optimizer.step()
    chosen = timm(opt, 0.01, 0.1, **options)
    chosen.check_in_timm()
    module, _ = fit(mlp(), chosen, 10)
    assert torch.equal(weights(module.model), weights(plain))


@pytest.mark.filterwarnings("ignore:.*opt_einsum")
@pytest.mark.parametrize(
    "opt", [pytest.param(opt, marks=pytest.mark.slow) if opt.startswith("kron") else opt for opt in USABLE]
)  # kron is compiled as it is first used
def test_every_one_of_them_trains_in_groups(opt: str) -> None:
    chosen = timm(opt, 1e-3, 0.01)
    chosen.check_in_timm()
    model = mlp().float()
    optimizer = build_optimizer(chosen, choice("param_groups", "layerwise", decay_vectors=False).of(model))
    for images, labels, *_ in batches(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images.float()), labels)
        loss.backward()
        optimizer.step()
    assert weights(model).isfinite().all()
    assert not torch.equal(weights(model), weights(mlp().float()))


@pytest.mark.parametrize("opt", ["adabelief", "adafactorbv", "lamb", "madgrad", "muon", "nadamlegacy"])
def test_a_saved_state_goes_on_with_the_same_bits(opt: str, tmp_path: Any) -> None:
    chosen = timm(opt, 1e-3, 0.01)
    whole, _ = fit(mlp(), chosen, 20)

    def keep(module: Any, *_: Any) -> None:
        save_checkpoint(tmp_path / "last", *module.learner.training_state())

    fit(mlp(), chosen, 20, stop_at=10, then=keep)
    again, _ = fit(mlp(seed=1), chosen, 20, go_on=From(10, *load_checkpoint(tmp_path / "last")))
    assert torch.equal(weights(again.model), weights(whole.model))


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (timm("adabelif"), "timm has no optimizer 'adabelif'. Did you mean 'adabelief'?"),
        (timm("lookahead_adam"), "wrapper=lookahead"),
        (timm("adahessian"), "needs second derivatives"),
        (timm("bnbsgd"), "needs the package bitsandbytes"),
        (timm("fusedadam"), "needs the package apex"),
        (timm("adabelief", rectfy=True), "has no option 'rectfy'. Did you mean 'rectify'?"),
        (timm("sgd", betas=[0.9, 0.9]), "timm's sgd has no option 'betas'"),
        (timm("adabelief", rectify=1), "rectify of timm's adabelief must be true or false, not '1'"),
        (timm("adabelief", eps="small"), "eps of timm's adabelief must be a number, not 'small'"),
        (timm("adabelief", eps=True), "must be a number, not 'True'"),
        (timm("adabelief", betas=[0.9]), "must be a list of 2 numbers, not '[0.9]'"),
        (timm("adabelief", betas=[0.9, 2.0]), "timm's adabelief does not take them: Invalid beta"),
        (timm("mars", mars_type=3), "must be text"),
    ],
    ids=lambda value: str(getattr(value, "opt", "")),
)
def test_what_timm_does_not_take_is_refused(chosen: Timm, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen.check_in_timm()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["lr", "weight_decay"])
def test_what_is_a_field_is_no_option(key: str) -> None:
    with pytest.raises(FieldError, match=rf"optimizer\.{key}"):
        Timm("timm", "adan", 0.1, 0.0, {key: 1.0})
