"""Trying a network before a run is made: what only the network itself can tell about a configuration."""

import logging
from typing import TYPE_CHECKING

from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, GradlabError

if TYPE_CHECKING:
    from gradlab.models.base import Model

ONE_VALUE = "Expected more than 1 value per channel"


def last_batch(train_examples: int, batch_examples: int) -> int:
    """Images in the last batch of an epoch."""
    return train_examples % batch_examples or batch_examples


def try_network(model: "Model", spec: DataSpec, batch_examples: int) -> None:
    """Build the network and let a batch through it, as large as the smallest of an epoch, up to two images.

    BatchNorm divides by the variance of what it sees. Of one image whose map is one pixel that is a single value, which
    torch refuses; any way around it would train that batch on something else than the network is.

    Raises:
        ConfigError: it cannot be built, does not take the images, or has a BatchNorm that would see a single value.
    """
    import torch

    images = min(2, last_batch(spec.train_examples, batch_examples))
    shape = f"{spec.height}×{spec.width}"
    about = f"model={model.name}" + (f" model.arch={model.arch}" if hasattr(model, "arch") else "")
    log = logging.getLogger("gradlab.models")  # what is said while the network is built shall be said once, in the run
    log.disabled = True
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            network = model.build(spec)
            network.train()(torch.zeros(images, *spec.image_shape))
        except GradlabError:
            raise
        except Exception as error:
            # A network of a library can fail in any way at all on a size that it was not made for.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if ONE_VALUE not in reason:
                raise ConfigError(
                    f"{about} cannot take the {spec.channels}×{shape} images of data={spec.name}: {reason}. Choose another "
                    "model, or larger images."
                ) from error
            raise ConfigError(
                f"{about} makes maps of one pixel of {shape} images, and BatchNorm cannot train on a single value for each "
                f"channel: {_single(spec, batch_examples)}. Choose {_other(spec, batch_examples)}, or a model without "
                "BatchNorm, such as model=mlp."
            ) from error
        finally:
            log.disabled = False


def _single(spec: DataSpec, batch_examples: int) -> str:
    if batch_examples == 1:
        return "every batch is one image"
    return f"in batches of {batch_examples:,}, {spec.train_examples:,} training images leave one for the last batch of an epoch"


def _other(spec: DataSpec, batch_examples: int) -> str:
    size = batch_examples + 1
    while last_batch(spec.train_examples, size) == 1:
        size += 1
    return f"another batch size, as data.batch_size={size}"
