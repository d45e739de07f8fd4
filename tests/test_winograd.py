"""Winograd's convolution beside torch's own, and in the graph of a compiled step."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad
from torch.fx import Graph, GraphModule

from gradlab.winograd import substitution, transforms
from gradlab.winograd.convolution import winograd, winograd_backward
from gradlab.winograd.substitution import Winograd

LAST = torch.channels_last


@pytest.fixture(autouse=True)
def threads() -> None:
    torch.manual_seed(0)


def difference(own: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest, of the largest number."""
    return float((own.double() - reference.double()).abs().max() / reference.abs().max())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("images", "channels", "outputs", "height", "width"),
    [
        (3, 64, 64, 8, 8),
        (5, 64, 128, 14, 14),  # the last tiles are half outside, and the images are not a multiple of those at once
        (1, 128, 64, 7, 9),
        (200, 8, 16, 4, 4),
        (2, 16, 8, 1, 3),
    ],
)
@pytest.mark.parametrize("memory_format", [LAST, torch.contiguous_format], ids=["last", "first"])
def test_it_is_a_convolution(
    images: int, channels: int, outputs: int, height: int, width: int, memory_format: torch.memory_format, threads: int
) -> None:
    """Beside one in double precision, forward and backward."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    x = torch.randn(images, channels, height, width).to(memory_format=memory_format)
    w = torch.randn(outputs, channels, 3, 3).to(memory_format=memory_format)
    dy = torch.randn(images, outputs, height, width).to(memory_format=memory_format)
    exact_x, exact_w = x.double().requires_grad_(), w.double().requires_grad_()
    exact = F.conv2d(exact_x, exact_w, padding=1)
    exact.backward(dy.double())
    try:
        y = winograd(x, w)
        dx, dw = winograd_backward(dy, x, w, True)
        none, same = winograd_backward(dy, x, w, False)
    finally:
        torch.set_num_threads(before)
    assert y.shape == exact.shape
    assert difference(y, exact.detach()) < 3e-5
    assert exact_x.grad is not None
    assert difference(dx, exact_x.grad) < 3e-5
    assert exact_w.grad is not None
    assert difference(dw, exact_w.grad) < 3e-5
    assert none.numel() == 0
    assert torch.equal(same, dw)


def test_the_same_numbers_come_out_twice() -> None:
    x, w = torch.randn(9, 64, 12, 12), torch.randn(64, 64, 3, 3)
    assert torch.equal(winograd(x, w), winograd(x, w))
    dy = torch.randn(9, 64, 12, 12)
    for one, other in zip(winograd_backward(dy, x, w, True), winograd_backward(dy, x, w, True), strict=True):
        assert torch.equal(one, other)


def test_torch_finds_the_operations_as_they_are_described() -> None:
    """Shapes and strides without computing, no input changed, no output that is an input."""
    x, w = torch.randn(3, 8, 5, 6), torch.randn(16, 8, 3, 3)
    torch.library.opcheck(winograd, (x, w), test_utils=("test_schema", "test_faketensor"))
    for by_images in (True, False):
        arguments = (torch.randn(3, 16, 5, 6), x, w, by_images)
        torch.library.opcheck(winograd_backward, arguments, test_utils=("test_schema", "test_faketensor"))


class Net(nn.Module):
    """Convolutions that are Winograd's (``own``), and those that differ from such in one thing each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.own = nn.Conv2d(64, 64, 3, padding=1)
        self.own_without_bias = nn.Conv2d(64, 72, 3, padding=1, bias=False)
        self.odd = nn.Conv2d(72, 68, 3, padding=1)
        self.strided = nn.Conv2d(68, 64, 3, padding=1, stride=2)
        self.narrow = nn.Conv2d(64, 64, 1)
        self.grouped = nn.Conv2d(64, 64, 3, padding=1, groups=2)
        self.dilated = nn.Conv2d(64, 64, 3, padding=2, dilation=2)
        self.unpadded = nn.Conv2d(64, 64, 3)
        self.last = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.own, self.own_without_bias, self.odd, self.strided):
            x = F.silu(layer(x))
        for layer in (self.narrow, self.grouped, self.dilated, self.unpadded):
            x = F.silu(layer(x))
        logits: torch.Tensor = self.last(x.mean((2, 3)))
        return logits


def targets(graph: Graph) -> list[str]:
    names = [str(node.target) for node in graph.nodes]
    return [name for name in names if "convolution" in name or "winograd" in name]


def traced(dtype: torch.dtype = torch.float32) -> tuple[Net, GraphModule, tuple[torch.Tensor, ...]]:
    """The graph of the gradients of a loss, and what it is called with."""
    from torch.fx.experimental.proxy_tensor import make_fx

    net = Net().to(dtype=dtype, memory_format=LAST)  # type: ignore[call-overload]
    names = [name for name, _ in net.named_parameters()]

    def gradients(x: torch.Tensor, *parameters: torch.Tensor) -> list[torch.Tensor]:
        def loss(trained: dict[str, torch.Tensor]) -> torch.Tensor:
            return F.cross_entropy(functional_call(net, trained, (x,)), torch.arange(4))

        return list(grad(loss)(dict(zip(names, parameters, strict=True))).values())

    x = torch.randn(4, 3, 16, 16, dtype=dtype).to(memory_format=LAST)
    given = (x, *(parameter.detach() for parameter in net.parameters()))
    return net, make_fx(gradients, tracing_mode="fake")(*given), given


def test_the_graph_takes_it_where_it_is_the_same_convolution() -> None:
    _, graph, given = traced()
    before = targets(graph.graph)
    direct = graph(*given)
    Winograd()(graph.graph)
    after = targets(graph.graph)
    assert [name for name in after if "winograd." in name] == ["gradlab.winograd.default"] * 2
    assert [name for name in after if "winograd_backward" in name] == ["gradlab.winograd_backward.default"] * 2
    assert len(after) == len(before)
    graph.recompile()
    for own, reference in zip(graph(*given), direct, strict=True):
        assert own.stride() == reference.stride()
        assert difference(own, reference) < 1e-4


def test_double_precision_stays_as_it_is() -> None:
    _, graph, _ = traced(torch.float64)
    before = targets(graph.graph)
    Winograd()(graph.graph)
    assert targets(graph.graph) == before


def test_small_images_stay_as_they_are() -> None:
    """5×5 pixels fill 0.39 of their tiles."""
    graph = Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    node = graph.call_function(substitution.FORWARD, (x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1))
    w.meta["val"] = torch.empty(64, 64, 3, 3)
    suited = []
    for size in (4, 5, 7, 8, 9, 14):
        x.meta["val"] = torch.empty(1, 64, size, size)
        suited.append(substitution.is_suited(node))
    assert suited == [True, False, True, True, False, True]


def test_without_a_compiler_convolutions_are_torch_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    transforms.library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    _, graph, _ = traced()
    before, known = targets(graph.graph), Winograd().uuid()
    Winograd()(graph.graph)
    assert targets(graph.graph) == before
    # One that is there, and fails.
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'unknown option -fopenmp' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    transforms.library.cache_clear()
    with pytest.raises(transforms.Unavailable, match=r"does not compile it \(unknown option -fopenmp\)"):
        transforms.library()
    monkeypatch.delenv("CC")
    transforms.library.cache_clear()
    transforms.library()
    assert [file.suffix for file in (tmp_path / "gradlab/winograd").iterdir()] == [".so"]
    assert Winograd().uuid() != known  # the compiler of graphs must not remember the other one
    transforms.library.cache_clear()
