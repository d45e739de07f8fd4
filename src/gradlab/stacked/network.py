"""Several networks of one architecture, computed at once over shared storage."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call

from gradlab.stacked.layers import COUNTERPARTS, Fold, Stacked
from gradlab.stacked.noise import Site, Streams
from gradlab.stacked.recognise import check_same, check_stackable, first_layer, is_known, named
from gradlab.stacked.storage import Layout, Storage, Unstackable, release

__all__ = ["Stack", "Unstackable", "check_stackable"]


class Stack:
    """Networks of one architecture over shared storage, and one network that computes them all.

    The members stay ordinary networks that can be used alone at any time. Their parameters and buffers become views of
    shared storage, so that what either writes the other sees. What a member computes is what it would compute alone: its
    dropout masks, its BatchNorm statistics, and on a CPU its bits.

    Args:
        networks: initialised, on their device; they may differ in their numbers and dropout rates.
        seeds: what each member's run gives ``torch.manual_seed`` before its first forward pass.
        image_shape: channels, height and width of an image. Where a library's network has forward functions of its own,
            whether it can be stacked is found out by trying: here, or with the first images.

    Attributes:
        networks: the members' own.
        size: how many they are.
        flat, columns, parameters, buffers: see ``storage.Storage``.
        drops: whether a forward pass draws dropout masks.
        layouts: how each trained parameter's numbers lie in its columns.

    Raises:
        Unstackable: a layer has no counterpart, or the networks differ in more than numbers.
    """

    def __init__(
        self, networks: Sequence[nn.Module], seeds: Sequence[int], image_shape: tuple[int, int, int] | None = None
    ) -> None:
        if not networks or len(networks) != len(seeds):
            raise ValueError(f"a stack needs a seed for each network: {len(networks)} networks, {len(seeds)} seeds")
        check_stackable(networks[0])
        check_same(networks)
        self.networks = list(networks)
        self._untried = not is_known(networks[0])
        device = next(networks[0].parameters()).device
        self._build([torch.Generator(device).manual_seed(seed).get_state() for seed in seeds])
        if image_shape is not None:
            self._try(image_shape)

    def _build(self, states: Sequence[torch.Tensor]) -> None:
        """Move the members into storage of their own and make the stacked network over it."""
        storage = Storage(self.networks)
        self.size = len(self.networks)
        self.flat = storage.flat
        self.columns = storage.columns
        self.parameters: dict[str, nn.Parameter] = storage.parameters
        self.layouts = {name: Layout.of(self.networks[0].get_parameter(name)) for name in storage.columns}
        self.buffers = storage.buffers
        self._buffers = list(storage.buffers.values())
        self._fold = Fold(self.size)
        self._network = stacked_network(self.networks, storage, self._fold).train()
        self._sees_shared = any(isinstance(layer, Stacked) and layer.first for layer in self._network.modules())
        rates = [_rates(network) for network in self.networks]
        self.drops = any(any(own) for own in rates)
        self._streams = Streams(states, rates, self.flat.device)
        self._sites: dict[object, list[Site]] = {}

    # ------------------------------------------------------------------- forward

    def forward(self, images: torch.Tensor, shared: bool = True) -> torch.Tensor:
        """Logits [members, batch, classes], in training mode.

        Args:
            images: [batch, channels, height, width], seen by all members; or [members·batch, …], member after member.
            shared: which of the two.
        """
        return self.compute(images, self.draw(images, shared), shared)

    def draw(self, images: torch.Tensor, shared: bool = True) -> tuple[torch.Tensor, ...]:
        """The dropout masks of the next forward pass over such images: the next of each member's random numbers."""
        self._try(images.shape[1:])
        if not self.drops:
            return ()
        autocast = torch.is_autocast_enabled(images.device.type)
        key = (images.shape, images.dtype, shared, autocast and torch.get_autocast_dtype(images.device.type))
        if key not in self._sites:
            self._sites[key] = self._note_sites(images, shared)
        return self._streams.draw(self._sites[key])

    def compute(
        self,
        images: torch.Tensor,
        noises: Sequence[torch.Tensor] = (),
        shared: bool = True,
        tensors: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """``forward`` with the masks that ``draw`` gave: what can be compiled or captured, for it draws nothing.

        ``tensors``: stacked parameters and buffers in place of its own, by their names.
        """
        self._fold.noises = list(noises)
        return self._pass(images, shared, tensors)

    @torch.no_grad()
    def evaluate(self, images: torch.Tensor, shared: bool = True) -> torch.Tensor:
        """Logits [members, batch, classes] in evaluation mode; images as in ``forward``."""
        self._try(images.shape[1:])
        self._network.eval()
        try:
            return self._pass(images, shared)
        finally:
            self._network.train()

    def _pass(self, images: torch.Tensor, shared: bool, tensors: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        if shared and not self._sees_shared:
            images, shared = images.repeat(self.size, *(1,) * (images.dim() - 1)), False
        self._fold.shared = shared
        answered = self._network(images) if tensors is None else functional_call(self._network, tensors, (images,))
        logits: torch.Tensor = answered.unflatten(0, (self.size, -1))
        return logits

    @torch.no_grad()
    def _note_sites(self, images: torch.Tensor, shared: bool) -> list[Site]:
        """The uses of dropout in a training pass over such images: a pass that leaves nothing behind."""
        kept = [buffer.clone() for buffer in self._buffers]
        self._fold.noises, self._fold.sites = None, []
        self._pass(images, shared)
        for buffer, before in zip(self._buffers, kept, strict=True):
            buffer.copy_(before)
        return self._fold.sites

    # ------------------------------------------------------------------- members

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members only, in this order; ``flat`` and ``parameters`` are new tensors then.

        The networks that leave get tensors of their own. Every network's tensors stay the same Python objects.
        """
        members = list(members)
        if not members or len(set(members)) < len(members) or not set(members) <= set(range(self.size)):
            raise ValueError(f"members to keep must be some of the {self.size}, each once: {members}")
        states = self.generator_states()
        for member, network in enumerate(self.networks):
            if member not in members:
                release(network)
        self.networks = [self.networks[member] for member in members]
        self._build([states[member] for member in members])

    def generator_states(self) -> list[torch.Tensor]:
        """The state of each member's random numbers, uint8."""
        return self._streams.states()

    def load_generator_states(self, states: Sequence[torch.Tensor]) -> None:
        """Go on from what ``generator_states`` gave."""
        if len(states) != self.size:
            raise ValueError(f"a stack of {self.size} networks was given {len(states)} states of generators")
        self._streams = Streams(states, self._streams.rates, self.flat.device)

    # ------------------------------------------------------------------- trial

    def _try(self, image_shape: Sequence[int]) -> None:
        """Compare a stack of copies with the copies alone, once, where a ``forward`` is not known to treat every image alone.

        Raises:
            Unstackable: they differ.
        """
        if not self._untried:
            return
        self._untried = False
        # In float64: BatchNorm can blow up the rounding of a few small images until it looks like a difference.
        pair = [copy.deepcopy(self.networks[member]).double() for member in (0, -1)]
        try:
            problem = _difference(pair, image_shape)
        except Exception as error:  # a library's network can fail in any way at all
            problem = (str(error).splitlines() or [type(error).__name__])[0]
        if problem:
            raise Unstackable(f"{named(self.networks[0])} that computes something else with several members: {problem}")


@torch.no_grad()
def _difference(networks: list[nn.Module], image_shape: Sequence[int]) -> str:
    """What is wrong with the logits of two networks stacked beside those of each alone; nothing where they agree."""
    for parameter in networks[1].parameters():
        parameter.mul_(1.1)  # members may begin alike
    first = next(networks[0].parameters())
    images = torch.randn(2, TRIAL_IMAGES, *image_shape, generator=torch.Generator().manual_seed(0)).to(first)
    alone, seeds = copy.deepcopy(networks), (1, 2)
    stack = Stack(networks, seeds)
    stack._untried = False
    cuda = [first.device] if first.is_cuda else []
    with torch.random.fork_rng(cuda):
        for training in (False, True):
            expected = []
            for network, seed, own in zip(alone, seeds, images, strict=True):
                torch.manual_seed(seed)
                expected.append(network.train(training)(own))
            torch.manual_seed(0)
            states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]
            together = (stack.forward if training else stack.evaluate)(images.flatten(0, 1), shared=False)
            after = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]
            if not all(torch.equal(one, other) for one, other in zip(states, after, strict=True)):
                return "it draws random numbers outside its dropout layers"
            for logits, single in zip(together, expected, strict=True):
                if logits.shape != single.shape:
                    return f"logits of shape {list(logits.shape)} instead of {list(single.shape)}"
                gap = (logits - single).abs().max()
                if not gap <= TRIAL_TOLERANCE * single.abs().max():
                    return f"logits differ by {float(gap):.2g} in {'training' if training else 'evaluation'}"
    return ""


TRIAL_IMAGES = 4
TRIAL_TOLERANCE = 1e-6
"""Relative to the largest logit."""


def stacked_network(networks: Sequence[nn.Module], storage: Storage, fold: Fold) -> nn.Module:
    """One network with the stacked tensors, that takes the members' images folded into the batch.

    It is the first member's copy: containers and what has no parameters as they are, layers with another class.
    """
    first = networks[0]
    # The copy's tensors are the stacked ones: deepcopy asks the memo before it copies.
    network: nn.Module = copy.deepcopy(first, storage.counterparts(first))
    entry = first_layer(network)
    for name, module in network.named_modules():
        counterpart = COUNTERPARTS.get(type(module))
        if counterpart is None:
            continue
        is_first = module is entry
        module.__class__ = counterpart
        assert isinstance(module, Stacked)
        module.fold, module.first = fold, is_first
        module.see([each.get_submodule(name) for each in networks])
    return network


def _rates(network: nn.Module) -> tuple[float, ...]:
    """The dropout rates of a member, in the order of its layers."""
    return tuple(float(layer.p) for layer in network.modules() if isinstance(layer, nn.Dropout))
