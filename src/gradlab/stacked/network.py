"""Several networks of one architecture, computed at once over shared storage."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from gradlab.stacked.layers import COUNTERPARTS, Fold, Stacked
from gradlab.stacked.noise import Site, Streams
from gradlab.stacked.recognise import check_same, check_stackable, first_layer, is_known
from gradlab.stacked.storage import Storage, Unstackable, release

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
        flat, columns, parameters: see ``storage.Storage``.

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
        self._buffers = list(storage.buffers.values())
        self._fold = Fold(self.size)
        self._network = stacked_network(self.networks, storage, self._fold).train()
        self._sees_shared = any(isinstance(layer, Stacked) and layer.first for layer in self._network.modules())
        rates = [_rates(network) for network in self.networks]
        self._drops = any(any(own) for own in rates)
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
        if not self._drops:
            return ()
        autocast = torch.is_autocast_enabled(images.device.type)
        key = (images.shape, images.dtype, shared, autocast and torch.get_autocast_dtype(images.device.type))
        if key not in self._sites:
            self._sites[key] = self._note_sites(images, shared)
        return self._streams.draw(self._sites[key])

    def compute(self, images: torch.Tensor, noises: Sequence[torch.Tensor] = (), shared: bool = True) -> torch.Tensor:
        """``forward`` with the masks that ``draw`` gave: what can be compiled or captured, for it draws nothing."""
        self._fold.noises = list(noises)
        return self._pass(images, shared)

    @torch.no_grad()
    def evaluate(self, images: torch.Tensor, shared: bool = True) -> torch.Tensor:
        """Logits [members, batch, classes] in evaluation mode; images as in ``forward``."""
        self._try(images.shape[1:])
        self._network.eval()
        try:
            return self._pass(images, shared)
        finally:
            self._network.train()

    def _pass(self, images: torch.Tensor, shared: bool) -> torch.Tensor:
        if shared and not self._sees_shared:
            images, shared = images.repeat(self.size, *(1,) * (images.dim() - 1)), False
        self._fold.shared = shared
        logits: torch.Tensor = self._network(images).unflatten(0, (self.size, -1))
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

    @torch.no_grad()
    def _try(self, image_shape: Sequence[int]) -> None:
        """Compare the stack with its members alone, once, where a ``forward`` is not known to treat every image alone.

        Two members with different numbers, three images each: what mixes images, members or random numbers shows.

        Raises:
            Unstackable: they differ.
        """
        if not self._untried:
            return
        self._untried = False
        kept = [tensor.clone() for tensor in (self.flat, *self._buffers)]
        states = self.generator_states()
        try:
            self.flat[-1].mul_(1.1)  # members may begin alike
            problem = self._differs(image_shape, states)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            problem = (str(error).splitlines() or [type(error).__name__])[0]
        finally:
            for tensor, before in zip((self.flat, *self._buffers), kept, strict=True):
                tensor.copy_(before)
            self._streams = Streams(states, self._streams.rates, self.flat.device)
        if problem:
            name = type(self.networks[0]).__name__
            raise Unstackable(f"a {name} network, which is not the same over the images of several members: {problem}")

    def _differs(self, image_shape: Sequence[int], states: Sequence[torch.Tensor]) -> str:
        """What is wrong with the stack's logits beside those of its first and last member alone; nothing where they agree."""
        device = self.flat.device
        drawn = torch.randn(self.size, TRIAL_IMAGES, *image_shape, generator=torch.Generator().manual_seed(0))
        images = drawn.to(device, self.flat.dtype)
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cuda):
            default = torch.cuda.default_generators[images.device.index] if cuda else torch.default_generator
            for training in (False, True):
                expected = {}
                for member in sorted({0, self.size - 1}):
                    before = [buffer[member].clone() for buffer in self._buffers]
                    default.set_state(states[member])
                    mode = self.networks[member].training
                    expected[member] = self.networks[member].train(training)(images[member])
                    self.networks[member].train(mode)
                    for buffer, own in zip(self._buffers, before, strict=True):
                        buffer[member].copy_(own)
                default.manual_seed(0)
                before_all = default.get_state()
                folded = images.flatten(0, 1)
                logits = self.forward(folded, shared=False) if training else self.evaluate(folded, shared=False)
                if not torch.equal(default.get_state(), before_all):
                    return "it draws random numbers outside its dropout layers"
                for member, alone in expected.items():
                    if logits[member].shape != alone.shape:
                        return f"logits of shape {list(logits[member].shape)} where it has {list(alone.shape)} alone"
                    gap = (logits[member] - alone).abs().max()
                    if not gap <= TRIAL_TOLERANCE * (1 + alone.abs().max()):
                        return f"its logits differ by {float(gap):.2g} {'in training' if training else 'in evaluation'}"
        return ""


TRIAL_IMAGES = 3
TRIAL_TOLERANCE = 1e-3


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
