"""The bridge from composed configurations to dataclasses: every choice, and every kind of mistake."""

import dataclasses
import importlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from gradlab.config import AXES, LISTED, Config, Origin, build_config, override_key
from gradlab.data.datasets import DATASETS
from gradlab.data.datasets.mnist import CHECKSUMS
from gradlab.data.datasets.published import Published
from gradlab.durations import Horizon
from gradlab.entry import explain, main
from gradlab.errors import ConfigError
from gradlab.models import timm
from gradlab.optimizers import OPTIMIZERS, SGD, Adam

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "configs"
CHOICES = [(axis, choice) for axis, registry in AXES.items() for choice in sorted(registry)]
# The choices that a command line below does not name: the tests depend on no default.
CHOSEN = {
    "data": "digits",
    "model": "mlp",
    "init": "he",
    "loss": "cross_entropy",
    "optimizer": "adam",
    "param_groups": "uniform",
    "wrapper": "none",
    "schedule": "cosine",
    "averaging": "none",
    "trainer": "auto",
    "tracking": "mlflow",
}
CUDA_DRIVER = any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl-gpu"))

Compose = Callable[..., DictConfig]
Build = Callable[..., Config]


def choices_of(overrides: Sequence[str]) -> dict[str, str]:
    """The chosen file of each axis, as Hydra tells it."""
    typed = (override.split("=", 1) for override in overrides if "=" in override)
    return CHOSEN | {axis: choice for axis, choice in typed if axis in AXES}


@pytest.fixture
def composed(compose: Compose) -> Compose:
    """``composed('optimizer.lr=-1', …)``: what Hydra makes of the files of ``CHOSEN`` and these overrides.

    Composing the files takes Hydra 70 ms, so that is done once for each choice of them; then it sets the numbers.
    """

    def make(*overrides: str) -> DictConfig:
        named = {override_key(override) for override in overrides}
        chosen = [f"{axis}={choice}" for axis, choice in CHOSEN.items() if axis not in named]
        numbers = [override for override in overrides if override_key(override) not in AXES]
        config = compose(*chosen, *(override for override in overrides if override not in numbers))
        parsed = OverridesParser.create().parse_overrides(numbers)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
        return config

    return make


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=adam", "optimizer.lr=3", "model.hidden=[1,2]", "seed=1"],
        ["optimizer=sgd", "+optimizer.x=${seed}", "++foo={a: [1]}", "~schedule.final", "name=???"],
    ],
)
def test_the_short_cut_above_leads_to_the_same_configuration(
    overrides: list[str], compose: Compose, composed: Compose
) -> None:
    others = [f"{axis}={choice}" for axis, choice in CHOSEN.items() if axis != "optimizer"]
    whole, shortened = compose(*others, *overrides), composed(*overrides)
    assert OmegaConf.to_yaml(shortened) == OmegaConf.to_yaml(whole)
    assert OmegaConf.is_struct(shortened) == OmegaConf.is_struct(whole)


@pytest.fixture
def build(composed: Compose) -> Build:
    """``build('optimizer.lr=-1', …)``: what train.py makes of this command line."""
    return lambda *overrides: build_config(composed(*overrides), Origin(overrides, choices_of(overrides)))


@pytest.fixture
def refusal(build: Build) -> Callable[..., str]:
    """The message with which a command line is refused."""

    def refused(*overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            build(*overrides)
        message = str(caught.value)
        assert "\n" not in message
        assert message.endswith((".", "?", '"'))
        return message

    return refused


@pytest.fixture
def mnist_root(tmp_path: Path) -> str:
    """Files of MNIST's names; whether they are MNIST is asked when they are read."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in CHECKSUMS:
        (folder / name).touch()
    return str(tmp_path)


# ------------------------------------------------------------------- what is right


@pytest.mark.parametrize(("axis", "choice"), CHOICES)
def test_every_choice_crosses_the_bridge(
    axis: str, choice: str, composed: Compose, build: Build, mnist_root: str
) -> None:
    if (axis, choice) == ("trainer", "cuda") and not CUDA_DRIVER:
        pytest.skip("this machine has no CUDA driver")
    if (axis, choice) == ("model", "timm") and not timm.names():
        pytest.skip("timm is not installed")
    overrides = [f"{axis}={choice}"]
    if choice.startswith("schedule_free"):
        overrides.append("schedule=constant")
    if axis == "data" and issubclass(DATASETS[choice], Published):
        overrides.append("data.download=true")  # then nothing needs to be there yet
    elif choice == "image_folder":
        pixels = (Path(mnist_root) / "pictures" / name / f"{number}.png" for name in "ab" for number in range(10))
        for file in pixels:
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8)).save(file)
        overrides += [f"data.root={mnist_root}/pictures", f"data.cache_dir={mnist_root}/cache"]
    elif "mnist" in choice or choice in ("lenet", "3c3d"):  # too small for those are the digits
        overrides = ["data=mnist", f"data.root={mnist_root}", *[o for o in overrides if o != "data=mnist"]]
    built = getattr(build(*overrides), axis)
    values = OmegaConf.to_container(composed(*overrides)[axis], resolve=True)
    assert isinstance(values, dict)
    if axis == LISTED:
        (built,), (values,) = built, values.values()
    assert type(built) is AXES[axis][choice]
    # `warmup: 0` is a number in the file and a text in the dataclass; all else is the same.
    texts = {field.name for field in dataclasses.fields(built) if field.type in (str, "str")}
    expected = {key: str(value) if key in texts else value for key, value in values.items()}
    assert dataclasses.asdict(built) == expected


def test_the_default_configuration(compose: Compose) -> None:
    config = build_config(compose())
    assert (config.data.name, config.model.name, config.trainer.name) == ("digits", "mlp", "auto")
    assert (config.seed, config.run_name, config.output_dir, config.plots) == (0, None, "outputs", True)


def test_the_length_and_the_name_of_a_run(build: Build) -> None:
    config = build("data.batch_size=32", "trainer.max_epochs=20", "optimizer.lr=0.00123456", "seed=3")
    assert config.spec.train_examples == 1294
    assert config.batch_examples == 32
    assert config.horizon == Horizon(total_steps=20 * 41, steps_per_epoch=41)
    assert config.name == "adam lr=0.00123456 mlp digits seed=3"


def test_a_value_arrives_in_its_field(build: Build) -> None:
    config = build(
        "optimizer.lr=3e-4",
        "optimizer.betas=[0.8,0.9]",
        "model.hidden=[]",
        "trainer.max_epochs=null",
        "trainer.max_steps=100",
        "schedule.warmup=5%",
        "data.batch_size=full",
        "seed=7",
        "name=mine",
    )
    assert config.optimizer == Adam("adam", lr=3e-4, betas=[0.8, 0.9], eps=1e-8, weight_decay=0.0)
    assert config.horizon == Horizon(total_steps=100, steps_per_epoch=1)
    assert config.batch_examples == config.spec.train_examples
    assert (config.seed, config.name) == (7, "mine")
    assert (config.model.hidden, config.schedule.warmup) == ([], "5%")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "value"),
    [("optimizer.lr=1", 1.0), ("optimizer.lr='1e-3'", 1e-3), ("optimizer.lr=${init.gain}", 1.0)],
)
def test_a_number_may_be_written_in_several_ways(override: str, value: float, build: Build) -> None:
    found = build(override).optimizer.lr
    assert found == value
    assert isinstance(found, float)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63])
def test_every_whole_number_from_zero_on_is_a_seed(seed: int, build: Build) -> None:
    assert build(f"seed={seed}").seed == seed


@pytest.mark.parametrize("override", ["imports=null", "~imports", "output_dir=somewhere/new", "tracking.uri=null"])
def test_these_are_no_mistakes(override: str, build: Build) -> None:
    build(override)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///a@b.db",
        "http://localhost:5000",
        "https://host/path?user=a@b",
        "databricks",
        "postgresql+psycopg://host/db",
    ],
)
def test_an_address_without_a_password_is_taken(uri: str, build: Build) -> None:
    assert build(f"tracking.uri='{uri}'").tracking.uri == uri  # type: ignore[attr-defined]


def test_a_batch_larger_than_the_set_is_the_set(build: Build) -> None:
    config = build("data.batch_size=100000")
    assert config.batch_examples == 1294
    assert config.horizon == Horizon(total_steps=20, steps_per_epoch=1)


def test_the_record_of_a_run_is_plain_and_whole(build: Build) -> None:
    recorded = build("optimizer.lr=${init.gain}").composed
    assert set(recorded) == {*AXES, "seed", "name", "output_dir", "plots"}
    assert recorded["optimizer"] == {
        "name": "adam",
        "lr": 1.0,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.0,
    }


def test_a_configuration_cannot_be_changed(build: Build) -> None:
    config = build()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.optimizer.lr = 1.0  # type: ignore[misc]


# ------------------------------------------------------------------- what is wrong


class Mistake(NamedTuple):
    """A command line whose last override is wrong."""

    overrides: tuple[str, ...]
    key: str
    says: str

    def __str__(self) -> str:
        return " ".join(self.overrides)


def wrong(*overrides: str, says: str, key: str = "") -> Mistake:
    return Mistake(overrides, key or override_key(overrides[-1]), says)


IN_AN_AXIS = [
    # wrong type
    wrong("optimizer.lr=abc", says="must be a number, not 'abc'"),
    wrong("optimizer.lr=null", says="must be a number, not 'null'"),
    wrong("optimizer.lr=true", says="must be a number, not 'True'"),
    wrong("optimizer.lr=[1]", says="must be a number, not '[1]'"),
    wrong("++optimizer.lr={a:1}", says="must be a number"),
    wrong("optimizer.betas=0.9", says="must be a list of numbers, not '0.9'"),
    wrong("optimizer.betas=null", says="must be a list of numbers"),
    wrong("optimizer.betas=[0.9,x]", says="not 'x'", key="optimizer.betas[1]"),
    wrong("model.hidden=64", says="must be a list of whole numbers, not '64'"),
    wrong("model.hidden=[1.5]", says="not '1.5'", key="model.hidden[0]"),
    wrong("model.hidden=[8,a]", says="not 'a'", key="model.hidden[1]"),
    wrong("model.activation=null", says="must be text, not 'null'"),
    wrong("data.batch_size=1.5", says="must be a whole number or text, not '1.5'"),
    wrong("data.batch_size=null", says="must be a whole number or text"),
    wrong("data.batch_size=true", says="must be a whole number or text"),
    wrong("data.split_seed=1.5", says="must be a whole number, not '1.5'"),
    wrong("trainer.max_epochs=1.5", says="must be a whole number or null, not '1.5'"),
    wrong("trainer.max_epochs=ten", says="must be a whole number or null, not 'ten'"),
    wrong("trainer.max_epochs=true", says="must be a whole number or null, not 'True'"),
    wrong("trainer.deterministic=maybe", says="must be true or false, not 'maybe'"),
    wrong("trainer.deterministic=null", says="must be true or false"),
    wrong("trainer.validate_every=null", says="must be text"),
    wrong("schedule.warmup=[5]", says="must be text, not '[5]'"),
    wrong("tracking.experiment=null", says="must be text"),
    # out of range
    wrong("optimizer.lr=nan", says="must be a finite number, not nan"),
    wrong("optimizer.lr=inf", says="must be a finite number, not inf"),
    wrong("optimizer.lr=-inf", says="must be a finite number, not -inf"),
    wrong("optimizer.lr=1e400", says="must be a finite number, not inf"),
    wrong("optimizer.lr=-1", says="must be above 0, not -1"),
    wrong("optimizer.lr=0", says="must be above 0, not 0"),
    wrong("optimizer.weight_decay=-1e-9", says="must be at least 0, not -1e-09"),
    wrong("optimizer.eps=0", says="must be above 0"),
    wrong("optimizer.betas=[0.9]", says="must have 2 numbers, not 1: [0.9]"),
    wrong("optimizer.betas=[]", says="must have 2 numbers, not 0: []"),
    wrong("optimizer.betas=[0.9,1]", says="must be below 1, not 1"),
    wrong("optimizer.betas=[-0.1,0.9]", says="must be at least 0, not -0.1"),
    wrong("optimizer.betas=[0.9,nan]", says="must be a finite number, not nan"),
    wrong("optimizer=momentum", "optimizer.momentum=0", says="must be above 0"),
    wrong("optimizer=nesterov", "optimizer.momentum=1", says="must be below 1"),
    wrong("model.hidden=[64,0]", says="must be at least 1, not 0"),
    wrong("model.hidden=[-3]", says="must be at least 1, not -3"),
    wrong("init.gain=0", says="must be above 0"),
    wrong("init=normal", "init.std=-1", says="must be above 0"),
    wrong("init=normal", "init.std=nan", says="must be a finite number"),
    wrong("data.batch_size=0", says="must be at least 1, not 0"),
    wrong("data.batch_size=-32", says="must be at least 1, not -32"),
    wrong("data.batch_size=half", says="must be a whole number or 'full', not 'half'"),
    wrong("data.val_fraction=0", says="must be above 0"),
    wrong("data.val_fraction=1", says="must be below 1"),
    wrong("data.val_fraction=nan", says="must be a finite number"),
    wrong("data.test_fraction=1", says="must be below 1"),
    wrong("data.split_seed=-1", says="must be at least 0, not -1"),
    wrong("trainer.max_epochs=0", says="must be at least 1, not 0"),
    wrong("trainer.max_epochs=-3", says="must be at least 1, not -3"),
    wrong("trainer.threads=0", says="must be at least 1"),
    wrong("schedule.final=1.1", says="must be at most 1, not 1.1"),
    wrong("schedule.final=-0.1", says="must be at least 0, not -0.1"),
    wrong("schedule=step", "schedule.gamma=1", says="must be below 1"),
    wrong("schedule=step", "schedule.gamma=0", says="must be above 0"),
    wrong("tracking.experiment=' '", says="must not be empty"),
    # one of a few words
    wrong("model.activation=rely", says="must be one of relu, tanh, sigmoid, not 'rely'. Did you mean 'relu'?"),
    wrong("trainer.precision=fp23", says="must be one of fp32, bf16, fp64, not 'fp23'. Did you mean 'fp32'?"),
    wrong("init.mode=fan-in", says="must be one of fan_in, fan_out, not 'fan-in'. Did you mean 'fan_in'?"),
    wrong("init=xavier", "init.distribution=unifrom", says="Did you mean 'uniform'?"),
    # lengths
    wrong("schedule.warmup=500", says="has no unit: '500'. Write it like '500 steps'"),
    wrong("schedule.warmup=1.5", says="has no unit: '1.5'"),
    wrong("schedule.warmup=5 furlongs", says="has an unknown unit: '5 furlongs'"),
    wrong("schedule.warmup=-5%", says="is not a length: '-5%'"),
    wrong("schedule.warmup=nan%", says="is not a length"),
    wrong("schedule.warmup=101%", says="must be at most 100%, not 101%"),
    wrong("schedule.warmup=5 minutes", says="must be given in steps or epochs or percent, not in minutes"),
    wrong("schedule=step", "schedule.every=0", says="must be above 0"),
    wrong("schedule=step", "schedule.every=30", says="has no unit: '30'"),
    wrong("trainer.validate_every=0", says="must be above 0"),
    wrong("trainer.log_every=0%", says="must be above 0"),
    wrong("trainer.log_every=10", says="has no unit: '10'"),
    wrong("trainer.checkpoint_every=5 validations", says="must be given in minutes or steps or epochs or percent"),
    wrong("trainer.checkpoint_every=5", says="has no unit: '5'"),
    # lengths that do not fit the run, of 820 steps
    wrong("schedule.warmup=100%", says="of 100% (820 steps) fills the whole run of 820 steps"),
    wrong("schedule.warmup=20 epochs", says="of 20 epochs (820 steps) fills the whole run of 820 steps"),
    wrong("schedule.warmup=5000 steps", says="(5000 steps) fills the whole run of 820 steps"),
    wrong("schedule=step", "schedule.every=100%", says="(820 steps) never comes: the run has 820 steps"),
    wrong("schedule=step", "schedule.warmup=80%", "schedule.every=30%", says="the run has 164 steps after its warm-up"),
    # around a step
    wrong("param_groups=layerwise", "param_groups.decay=1", says="must be below 1, not 1"),
    wrong("wrapper=sam", "wrapper.rho=0", says="must be above 0, not 0"),
    wrong("wrapper=lookahead", "wrapper.k=2.5", says="must be a whole number, not '2.5'"),
    wrong("averaging=ema", "averaging.decay=1", says="must be below 1, not 1"),
    wrong("averaging=ema", "averaging.every=10", says="has no unit: '10'"),
    wrong("averaging=swa", "averaging.start=900 steps", says="never comes: the run has 820 steps"),
    wrong("averaging=swa", "averaging.every=300 steps", says="the run has 205 steps after averaging.start"),
    wrong("trainer.clip_norm=0", says="must be above 0, not 0"),
    wrong("trainer.clip_norm=-1", says="must be above 0, not -1"),
    wrong("trainer.clip_norm=much", says="must be a number or null, not 'much'"),
    wrong("trainer.clip_value=0", says="must be above 0, not 0"),
    wrong("trainer.clip_norm=1", "trainer.clip_value=1", says="and trainer.clip_norm are both given"),
    wrong("trainer.accumulate=0", says="must be at least 1, not 0"),
    wrong("trainer.accumulate=1.5", says="must be a whole number, not '1.5'"),
    wrong("loss.label_smoothing=1", says="must be below 1, not 1"),
    wrong(
        "optimizer=timm", "optimizer.options=3", says="must be names with their values, as {eps: 1e-6} or null, not '3'"
    ),
    wrong("optimizer=timm", "optimizer.options={lr: 1}", says="has lr, which is optimizer.lr", key="optimizer.options"),
    wrong("schedule=plateau", "schedule.patience=3", says="has no unit: '3'. Write it like '3 validations'"),
    wrong("schedule=plateau", "schedule.patience=3 minutes", says="must be given in validations or steps"),
    # the end of the run
    wrong("trainer.max_epochs=null", says="and trainer.max_steps are both null"),
    wrong("trainer.max_steps=10", says="and trainer.max_epochs are both given, 10 and 20"),
]


@pytest.mark.parametrize("mistake", IN_AN_AXIS, ids=str)
def test_a_mistake_is_named_with_its_key_and_where_it_was_made(
    mistake: Mistake, composed: Compose, refusal: Callable[..., str]
) -> None:
    message = refusal(*mistake.overrides)
    assert message.startswith(f"{mistake.key} ")
    assert mistake.says in message
    assert f"(set on the command line: {mistake.overrides[-1]})" in message
    # The same values, as if they had been written into the file.
    choices = choices_of(mistake.overrides)
    with pytest.raises(ConfigError) as caught:
        build_config(composed(*mistake.overrides), Origin((), choices))
    axis = mistake.key.split(".")[0]
    in_file = f"(set in configs/{axis}/{choices[axis]}.yaml)"
    assert str(caught.value) == message.replace(f"(set on the command line: {mistake.overrides[-1]})", in_file)


TOP_LEVEL = [
    wrong("seed=-1", says="must be at least 0, not -1"),
    wrong("seed=true", says="must be int, not 'True'"),
    wrong("seed=abc", says="must be int, not 'abc'"),
    wrong("seed=1.5", says="must be int, not '1.5'"),
    wrong("seed=null", says="must be int, not 'null'"),
    wrong("seed=[1]", says="must be int, not '[1]'"),
    wrong("seed=???", says="must be int"),
    wrong("name=3", says="must be str or null, not '3'"),
    wrong("name=[a]", says="must be str or null"),
    wrong("output_dir=null", says="must be str"),
    wrong("plots=1", says="must be bool, not '1'"),
    wrong("plots=yes", says="must be bool, not 'yes'"),
    wrong("imports=my_module", says="must be a list of module names, not 'my_module'"),
    wrong("imports=3", says="must be a list of module names"),
    wrong("seed=${nosuch}", says="Interpolation key 'nosuch' not found", key="seed:"),
    wrong("optimizer.lr=${nosuch}", says="Interpolation key 'nosuch' not found", key="optimizer.lr:"),
    wrong("optimizer.lr=${optimizer.lr}", says="Recursive interpolation", key="optimizer.lr:"),
    wrong("optimizer.lr=${foo:1}", says="Unsupported interpolation type foo", key="optimizer.lr:"),
    wrong("name=${oc.env:GRADLAB_NO_SUCH_VARIABLE}", says="'GRADLAB_NO_SUCH_VARIABLE' not found", key="name:"),
    wrong("model.hidden=[1,'${nosuch}']", says="Interpolation key 'nosuch' not found", key="model.hidden[1]:"),
]


@pytest.mark.parametrize("mistake", TOP_LEVEL, ids=str)
def test_a_mistake_outside_the_axes_is_named_with_its_key_and_the_override(
    mistake: Mistake, refusal: Callable[..., str]
) -> None:
    message = refusal(*mistake.overrides)
    assert message.startswith(f"{mistake.key} ")
    assert mistake.says in message
    assert f"(set on the command line: {mistake.overrides[-1]})" in message


@pytest.mark.parametrize("mistake", [m for m in TOP_LEVEL if "." not in m.key], ids=str)
def test_a_mistake_in_the_main_file_is_named_with_its_key_and_the_file(mistake: Mistake, composed: Compose) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(composed(*mistake.overrides), Origin((), CHOSEN))
    assert str(caught.value).startswith(f"{mistake.key} ")
    assert "(set in configs/config.yaml)" in str(caught.value)


def test_without_an_origin_the_main_file_is_named(composed: Compose) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lr must be above 0, not -1 \(set in configs/config\.yaml\)"):
        build_config(composed("optimizer.lr=-1"))


TOGETHER = [
    (["optimizer=schedule_free_adamw"], "replaces the schedule, and schedule=cosine would lower"),
    (["optimizer=schedule_free_sgd", "schedule=constant", "averaging=ema"], "averaging=ema would average an average"),
    (["optimizer=schedule_free_sgd", "schedule=constant", "wrapper=lookahead"], "wrapper=lookahead would overwrite"),
    (["trainer.accumulate=33"], "cuts a batch of 32 images into more parts than it has"),
]


@pytest.mark.parametrize(("overrides", "says"), TOGETHER, ids=lambda value: " ".join(value))
def test_choices_that_undo_each_other_are_refused(overrides: list[str], says: str, refusal: Callable[..., str]) -> None:
    assert says in refusal(*overrides)


def test_parameter_groups_without_an_effect_are_refused(own_module: None, refusal: Callable[..., str]) -> None:
    message = refusal(*OWN, "param_groups=no_decay")
    assert "param_groups=no_decay exempts parameters from weight decay, and optimizer=signed has none" in message
    assert "Choose param_groups=uniform" in message


@pytest.mark.parametrize(("name", "package"), [("timm", "timm"), ("schedule_free_sgd", "schedulefree")])
def test_a_library_that_is_not_installed_is_named(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    monkeypatch.delitem(sys.modules, package, raising=False)
    importlib.invalidate_caches()
    message = refusal(f"optimizer={name}", "schedule=constant")
    assert f"pip install 'gradlab[{package}]'" in message


# ------------------------------------------------------------------ unknown and missing


@pytest.mark.parametrize("plus", ["+", "++"])
@pytest.mark.parametrize(
    ("choice", "key", "hint"),
    [
        ("optimizer=adam", "lrr", "Did you mean 'lr'?"),
        ("optimizer=adam", "beta", "Did you mean 'betas'?"),
        ("optimizer=adam", "qqqq", "It has lr, betas, eps, weight_decay."),
        ("optimizer=sgd", "momentum", "It has lr, weight_decay."),
        ("init=zeros", "std", "It has none."),
        ("init=he", "gian", "Did you mean 'gain'?"),
        ("schedule=constant", "final", "It has warmup."),
        (
            "data=digits",
            "root",
            "It has batch_size, val_fraction, split_seed, class_weights, normalization, test_fraction.",
        ),
        ("trainer=cpu", "max_epoch", "Did you mean 'max_epochs'?"),
        ("tracking=none", "uri", "It has none."),
    ],
)
def test_an_unknown_key_of_a_choice(plus: str, choice: str, key: str, hint: str, refusal: Callable[..., str]) -> None:
    axis = choice.split("=")[0]
    override = f"{plus}{axis}.{key}=3"
    expected = f"{choice} has no key '{key}' (set on the command line: {override}). {hint}"
    assert refusal(choice, override) == expected


@pytest.mark.parametrize("plus", ["+", "++"])
@pytest.mark.parametrize(
    ("key", "hint"), [("sed", " Did you mean 'seed'?"), ("optimiser", " Did you mean 'optimizer'?"), ("qqqqqq", "")]
)
def test_an_unknown_key_outside_the_axes(plus: str, key: str, hint: str, refusal: Callable[..., str]) -> None:
    assert refusal(f"{plus}{key}=3") == f"There is no key '{key}' (set on the command line: {plus}{key}=3).{hint}"


@pytest.mark.parametrize("override", ["++foo.bar=3", "++optimizer.lr.a=1", "optimizer.name=null"])
def test_an_override_below_the_wrong_key_is_named(override: str, refusal: Callable[..., str]) -> None:
    assert f"(set on the command line: {override})" in refusal(override)


def test_an_unknown_name_is_answered_with_the_nearest(refusal: Callable[..., str]) -> None:
    message = refusal("optimizer.name=adma")
    assert "no optimizer 'adma'" in message
    assert "Did you mean 'adam'?" in message
    assert f"Choices: {', '.join(sorted(OPTIMIZERS))}" in message


@pytest.mark.parametrize("override", ["optimizer.name=adma", "trainer.name=gpu", "model.name=[mlp]"])
def test_an_unknown_name_is_named_with_its_key_and_the_override(override: str, refusal: Callable[..., str]) -> None:
    message = refusal(override)
    assert override_key(override) in message.replace(override, "")
    assert f"(set on the command line: {override})" in message


def test_another_name_than_the_chosen_file_s(refusal: Callable[..., str]) -> None:
    """The name says which dataclass; the numbers are still adam's."""
    message = refusal("optimizer.name=sgd")
    assert "optimizer=sgd has no key 'betas' (set in configs/optimizer/adam.yaml)" in message


@pytest.mark.parametrize("axis", [axis for axis in AXES if axis != LISTED])
@pytest.mark.parametrize("how", ["null", "deleted", "nameless", "a text"])
def test_an_axis_without_a_choice(axis: str, how: str, composed: Compose) -> None:
    config = composed()
    OmegaConf.set_struct(config, False)
    if how == "deleted":
        del config[axis]
    else:
        config[axis] = {"null": None, "nameless": {"name": None}, "a text": "adam"}[how]
    with pytest.raises(ConfigError) as caught:
        build_config(config, Origin((), CHOSEN))
    assert f"{axis} must be one of {', '.join(sorted(AXES[axis]))}" in str(caught.value)
    assert "(set in configs/config.yaml)" in str(caught.value)


def test_a_deleted_axis_is_named_with_the_override(refusal: Callable[..., str]) -> None:
    message = refusal("~optimizer")
    assert message.startswith(f"optimizer must be one of {', '.join(sorted(OPTIMIZERS))}, and it is None")
    assert "(set on the command line: ~optimizer)" in message


@pytest.mark.parametrize("override", ["~optimizer.lr", "optimizer.lr=???"])
def test_a_missing_key_of_a_choice(override: str, refusal: Callable[..., str]) -> None:
    assert refusal(override).startswith("optimizer.lr is missing, and optimizer=adam needs it")


@pytest.mark.parametrize("override", ["~optimizer.lr", "optimizer.lr=???"])
def test_a_missing_key_is_named_with_the_override(override: str, refusal: Callable[..., str]) -> None:
    assert override in refusal(override)


@pytest.mark.parametrize("key", ["seed", "output_dir", "plots"])
def test_a_missing_key_outside_the_axes(key: str, refusal: Callable[..., str]) -> None:
    assert refusal(f"~{key}") == f"{key} is missing; configs/config.yaml has its default."


# ------------------------------------------------------------------------ origins


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("optimizer.lr=3", "optimizer.lr"),
        ("+optimizer.lr=3", "optimizer.lr"),
        ("++optimizer.lr=a=b", "optimizer.lr"),
        ("~optimizer", "optimizer"),
        ("~optimizer.lr=3", "optimizer.lr"),
        ("optimizer@other=adam", "optimizer"),
    ],
)
def test_the_key_of_an_override(override: str, key: str) -> None:
    assert override_key(override) == key


def test_an_origin_is_the_override_the_axis_file_or_the_main_file() -> None:
    origin = Origin(["optimizer.lr=3", "+model.hidden=[1]"], {"optimizer": "adam", "model": "mlp"})
    assert origin.of("optimizer.lr") == "on the command line: optimizer.lr=3"
    assert origin.of("model.hidden[0]") == "on the command line: +model.hidden=[1]"
    assert origin.of("model.hidden.0.x") == "on the command line: +model.hidden=[1]"
    assert origin.of("optimizer.lrs") == "in configs/optimizer/adam.yaml"
    assert origin.of("seed") == "in configs/config.yaml"
    assert origin.of("schedule") == "in configs/config.yaml"
    assert origin.of("data.root") == "in configs/config.yaml"


def test_a_mistake_in_a_file_chosen_on_the_command_line_is_in_the_file(composed: Compose) -> None:
    overrides = ["optimizer=sgd"]
    config = composed(*overrides)
    config.optimizer.lr = -1
    with pytest.raises(ConfigError) as caught:
        build_config(config, Origin(overrides, choices_of(overrides)))
    assert "configs/optimizer/sgd.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("seed=1", "seed=2"),
        ("seed=1", "++seed=2"),
        ("optimizer.lr=1", "optimizer.lr=1"),
        ("optimizer=sgd", "optimizer=adam"),
        ("+optimizer.x=1", "++optimizer.x=1"),
    ],
)
def test_an_override_given_twice_is_refused(first: str, second: str, refusal: Callable[..., str]) -> None:
    key = override_key(first)
    expected = f"{key} is given twice on the command line: '{first}' and '{second}'. Give it once."
    assert refusal(first, "plots=false", second) == expected


# ------------------------------------------------------------------------ _target_


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("+_target_=os.system", "_target_"),
        ("++_target_=os.system", "_target_"),
        ("+optimizer._target_=torch.optim.SGD", "optimizer._target_"),
        ("+foo._target_=os.system", "foo._target_"),
        ("++optimizer.lr={_target_:os.system}", "optimizer.lr._target_"),
        ("++model.hidden=[{_target_:os.system}]", "model.hidden.0._target_"),
        ("+a=[1,[{b:{_target_:os.system}}]]", "a.1.0.b._target_"),
        ("imports=[{_target_:os.system}]", "imports.0._target_"),
    ],
)
def test_target_is_refused_anywhere(override: str, key: str, refusal: Callable[..., str]) -> None:
    message = refusal(override)
    assert message.startswith(f"{key}: '_target_' is not allowed (set on the command line: {override})")
    assert "imports=[…]" in message


def test_target_in_a_file_is_refused(composed: Compose) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\._target_.* \(set in configs/optimizer/adam\.yaml\)"):
        build_config(composed("+optimizer._target_=os.system"), Origin((), CHOSEN))


def test_target_is_refused_before_a_module_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    (tmp_path / "module_not_to_import.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "_target_" in refusal("imports=[module_not_to_import]", "+optimizer._target_=x")


# --------------------------------------------------- what does not fit together or is not there


def test_lenet_does_not_take_digits(refusal: Callable[..., str]) -> None:
    message = refusal("model=lenet")
    for part in ("model=lenet", "12×12", "data=digits has 8×8", "model=mlp", "data=mnist"):
        assert part in message


@pytest.mark.parametrize("name", CHECKSUMS.keys())
def test_mnist_without_one_of_its_files(name: str, mnist_root: str, refusal: Callable[..., str]) -> None:
    (Path(mnist_root) / "MNIST" / "raw" / name).unlink()
    message = refusal("data=mnist", f"data.root={mnist_root}")
    for part in ("data=mnist", f"'{name}'", f"{mnist_root}/MNIST/raw", "data.root=…"):
        assert part in message


@pytest.mark.skipif(CUDA_DRIVER, reason="this machine has a CUDA driver")
@pytest.mark.parametrize("override", ["trainer=cuda", "trainer.name=cuda"])
def test_cuda_without_a_driver(override: str, refusal: Callable[..., str]) -> None:
    message = refusal(override)
    for part in ("trainer=cuda needs an NVIDIA GPU", "trainer=cpu", "trainer=auto"):
        assert part in message


def test_an_output_folder_that_is_a_file(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file is a file" in refusal(f"output_dir={tmp_path}/file")


@pytest.mark.parametrize("uri", ["http://me:secret@host/", "postgresql://me:secret@host:5432/db", "http://secret@host"])
def test_an_address_with_a_password_is_refused(uri: str, refusal: Callable[..., str]) -> None:
    message = refusal(f"tracking.uri='{uri}'")
    assert message.startswith("tracking.uri holds a user name or password")
    assert "MLFLOW_TRACKING_URI" in message
    assert "(set on the command line: tracking.uri=" in message


def test_a_password_is_not_repeated(refusal: Callable[..., str]) -> None:
    assert "secret" not in refusal("tracking.uri='http://me:secret@host/'")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("imports=['']", "imports"),
        ("imports=['.relative']", "imports"),
        ("schedule.warmup=1e400 steps", "schedule.warmup"),
        ("model.hidden=[[1]]", "model.hidden"),
        ("imports=0", "imports"),
    ],
)
def test_these_mistakes_too_are_named_with_their_key(override: str, key: str, refusal: Callable[..., str]) -> None:
    message = refusal(override)
    assert message.startswith(key)
    assert f"(set on the command line: {override})" in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.betas=[0.9,x]", "optimizer.betas[1] must be a number, not 'x'"),
        ("model.hidden=[1.5]", "model.hidden[0] must be a whole number, not '1.5'"),
    ],
)
def test_an_entry_of_a_list_is_no_list(override: str, says: str, refusal: Callable[..., str]) -> None:
    assert says in refusal(override)


# ------------------------------------------------------------- what Hydra refuses itself


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "optimizer=adma",
            [
                "optimizer=adma: there is no optimizer 'adma'",
                "Did you mean 'adam'?",
                "Choices: adadelta, adagrad, adam, ",
            ],
        ),
        ("optimizer.lrr=3", ["has no key 'lrr' (set on the command line: optimizer.lrr=3)", "Did you mean"]),
        ("sed=3", ["There is no key 'sed'", "sed=3", "Did you mean 'seed'?"]),
        ("~nosuch", ["~nosuch names nothing that could be deleted"]),
        ("optimizer=???", ["optimizer=<OPTION>", "adamw"]),
        ("model.hidden=[64", ["'model.hidden=[64' cannot be read", "Quote values"]),
        ("imports={}", ["imports={}"]),
        ("+experiment=nosuch", ["experiment=nosuch"]),
    ],
)
def test_an_error_of_hydras_is_explained(
    override: str, parts: list[str], compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", override])
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which of Hydra's errors it is, is Hydra's business
        compose(override)
    message = explain(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "override",
    [
        "optimizer=nosuch",
        "optimizer.lr=-1",
        "optimizer=null",
    ],
)
def test_main_ends_a_mistake_with_one_message_and_status_2(
    override: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", override])
    assert main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("gradlab: wrong configuration. ")
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------- a user's own module

OWN_OPTIMIZER = """
from dataclasses import dataclass

from gradlab.bounds import check_number
from gradlab.optimizers import OPTIMIZERS


@OPTIMIZERS.register("signed")
@dataclass(frozen=True)
class Signed:
    name: str
    lr: float
    strength: int

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)

    def build(self, params):
        import torch

        return torch.optim.SGD(params, lr=self.lr)
"""

OWN = [
    "imports=[users_own_optimizers]",
    "optimizer.name=signed",
    "optimizer.lr=0.5",
    "+optimizer.strength=3",
    "~optimizer.betas",
    "~optimizer.eps",
    "~optimizer.weight_decay",
]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that registers an optimizer; both are forgotten after the test."""
    (tmp_path / "users_own_optimizers.py").write_text(OWN_OPTIMIZER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS._entries))
    # Absent during the test, and absent again after it.
    monkeypatch.setitem(sys.modules, "users_own_optimizers", None)
    monkeypatch.delitem(sys.modules, "users_own_optimizers")


@pytest.mark.usefixtures("own_module")
def test_a_users_own_optimizer_joins_through_imports(build: Build) -> None:
    config = build(*OWN)
    assert vars(config.optimizer) == {"name": "signed", "lr": 0.5, "strength": 3}
    assert type(config.optimizer).__name__ == "Signed"
    assert config.name == "signed lr=0.5 mlp digits seed=0"
    assert config.composed["imports"]  # so that who opens the run knows what to import


@pytest.mark.usefixtures("own_module")
def test_mistakes_in_a_users_own_optimizer_are_named_alike(refusal: Callable[..., str]) -> None:
    for wrong_override, says in [
        ("optimizer.lr=-1", "optimizer.lr must be above 0, not -1"),
        ("+optimizer.strength=much", "optimizer.strength must be a whole number, not 'much'"),
        ("++optimizer.strenght=1", "optimizer=signed has no key 'strenght'"),
    ]:
        others = [override for override in OWN if override_key(override) != override_key(wrong_override)]
        message = refusal(*others, wrong_override)
        assert says in message
        assert f"(set on the command line: {wrong_override})" in message


def test_the_users_own_optimizer_is_forgotten_after_its_tests() -> None:
    assert "signed" not in OPTIMIZERS
    assert OPTIMIZERS["sgd"] is SGD


@pytest.mark.parametrize("module", ["nosuchmodule", "json.nosuch", "nosuch.package"])
def test_a_module_that_cannot_be_imported(module: str, refusal: Callable[..., str]) -> None:
    message = refusal(f"imports=[{module}]")
    assert message.startswith(f"imports: '{module}' cannot be imported (No module named")
    assert f"(set on the command line: imports=[{module}])" in message
    assert "PYTHONPATH" in message


# ----------------------------------------------------------------------------- imports

CHECK_IMPORTS = """
import sys
import hydra
from gradlab.config import build_config
with hydra.initialize_config_dir(sys.argv[1], version_base="1.3"):
    for model in ("mlp", "logistic"):
        for schedule in ("constant", "cosine", "step", "plateau"):
            build_config(hydra.compose("config", [f"model={model}", f"schedule={schedule}"])).horizon
    for choices in (
        ["optimizer=timm", "wrapper=sam", "averaging=swa", "param_groups=no_decay"],
        ["optimizer=schedule_free_adamw", "schedule=constant", "param_groups=layerwise"],
    ):
        build_config(hydra.compose("config", choices))
heavy = {"torch", "torchvision", "lightning", "mlflow", "matplotlib", "sklearn", "scipy", "pandas", "timm", "schedulefree"}
print(*sorted(heavy & set(sys.modules)))
"""


def test_a_configuration_is_checked_without_the_heavy_libraries() -> None:
    """A mistake must be said at once, not after seven seconds of imports."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK_IMPORTS, str(CONFIGS)], capture_output=True, text=True, timeout=900, check=True
    )
    assert done.stdout == "\n"


def test_reading_a_configuration_touches_no_file(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build()
    assert list(tmp_path.iterdir()) == []
    assert not any(isinstance(value, DictConfig) for value in vars(build()).values())
