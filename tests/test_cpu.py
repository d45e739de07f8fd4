"""Our operations on a CPU beside torch's own, and in the graph of a compiled step."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad
from torch.fx import Graph, GraphModule

from gradlab.cpu import library, rewriting
from gradlab.cpu.choice import share_of
from gradlab.cpu.direct import direct, direct_backward
from gradlab.cpu.pooling import pool_backward
from gradlab.cpu.rewriting import Rewriting
from gradlab.cpu.winograd import winograd, winograd_backward
from gradlab.models.trace import trace

LAST = torch.channels_last


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def difference(own: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest, of the largest number."""
    return float((own.double() - reference).abs().max() / reference.abs().max())


def exactly(
    images: torch.Tensor, kernels: torch.Tensor, gradient: torch.Tensor, border: list[int], groups: int
) -> list[torch.Tensor]:
    """The outputs and the gradients by images and by kernels, in double precision."""
    x, w = images.double().requires_grad_(), kernels.double().requires_grad_()
    y = F.conv2d(x, w, padding=border, groups=groups)
    return [y.detach(), *torch.autograd.grad(y, (x, w), gradient.double())]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("memory_format", [LAST, torch.contiguous_format], ids=["last", "first"])
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
def test_winograds_is_a_convolution(
    images: int, channels: int, outputs: int, height: int, width: int, memory_format: torch.memory_format
) -> None:
    x = torch.randn(images, channels, height, width).to(memory_format=memory_format)
    w = torch.randn(outputs, channels, 3, 3).to(memory_format=memory_format)
    dy = torch.randn(images, outputs, height, width).to(memory_format=memory_format)
    own = [winograd(x, w), *winograd_backward(dy, x, w, True)]
    for number, exact in zip(own, exactly(x, w, dy, [1, 1], 1), strict=True):
        assert number.shape == exact.shape
        assert difference(number, exact) < 3e-5
    nothing, same = winograd_backward(dy, x, w, False)
    assert nothing.numel() == 0
    assert torch.equal(same, own[2])
    assert torch.equal(winograd(x, w), own[0])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("memory_format", [LAST, torch.contiguous_format], ids=["last", "first"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    ("images", "channels", "outputs", "kernel", "size", "border"),
    [
        (5, 1, 6, (5, 5), (28, 28), [2, 2]),  # LeNet's
        (17, 6, 16, (5, 5), (14, 14), [0, 0]),
        (2, 3, 16, (3, 5), (8, 9), [1, 2]),
        (3, 2, 20, (3, 5), (7, 5), [1, 2]),  # a vector and a half, then half of one
        (2, 4, 9, (1, 5), (6, 11), [0, 2]),
        (1, 5, 35, (2, 5), (5, 13), [3, 0]),
        (1, 7, 1, (3, 5), (3, 5), [0, 0]),
        (2, 2, 1, (3, 5), (9, 6), [0, 0]),  # an output's row has fewer numbers than a vector
    ],
)
def test_direct_ones_are_convolutions(
    images: int,
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    size: tuple[int, int],
    border: list[int],
    groups: int,
    memory_format: torch.memory_format,
) -> None:
    x = torch.randn(images, groups * channels, *size).to(memory_format=memory_format)
    w = torch.randn(groups * outputs, channels, *kernel).to(memory_format=memory_format)
    dy = torch.randn_like(F.conv2d(x, w, padding=border, groups=groups)).to(memory_format=memory_format)
    own = [direct(x, w, border, groups), *direct_backward(dy, x, w, border, groups, True)]
    for number, exact in zip(own, exactly(x, w, dy, border, groups), strict=True):
        assert number.shape == exact.shape
        assert difference(number, exact) < 3e-6
    nothing, same = direct_backward(dy, x, w, border, groups, False)
    assert nothing.numel() == 0
    assert torch.equal(same, own[2])
    assert torch.equal(direct(x, w, border, groups), own[0])


def test_direct_ones_have_the_same_bits_on_any_number_of_threads() -> None:
    x, w = torch.randn(33, 6, 14, 14), torch.randn(16, 6, 5, 5)
    dy = torch.randn(33, 16, 10, 10)
    before, made = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        made.append([direct(x, w, [0, 0], 1), *direct_backward(dy, x, w, [0, 0], 1, True)])
    torch.set_num_threads(before)
    for own in made[1:]:
        assert all(torch.equal(one, other) for one, other in zip(own, made[0], strict=True))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("window", [(2, 2), (3, 2), (1, 4)])
@pytest.mark.parametrize("shape", [(5, 1, 2, 3), (2, 3, 7, 1), (3, 6, 14, 14), (1, 20, 3, 5), (2, 64, 4, 4)])
def test_a_pixel_gets_the_gradient_of_the_window_that_chose_it(
    shape: tuple[int, int, int, int], window: tuple[int, int]
) -> None:
    images, channels, height, width = shape
    # Few numbers, so that a window often has its largest twice: the first of them is chosen.
    x = torch.randint(4, (images, channels, height * window[0], width * window[1])).float().requires_grad_()
    y, indices = F.max_pool2d(x, window, return_indices=True)
    dy = torch.randn(shape)
    (expected,) = torch.autograd.grad(y, x, dy)
    row, column = indices // x.shape[3] % window[0], indices % x.shape[3] % window[1]
    chosen = (row * window[1] + column).to(torch.int8)
    for order in (LAST, torch.contiguous_format):
        own = pool_backward(dy.contiguous(memory_format=order), chosen.contiguous(memory_format=order), list(window))
        assert torch.equal(own, expected)


def test_torch_finds_the_operations_as_they_are_described() -> None:
    """Shapes and strides without computing, no input changed, no output that is an input."""
    x, w, dy = torch.randn(3, 8, 5, 6), torch.randn(16, 8, 3, 3), torch.randn(3, 16, 5, 6)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(winograd, (x, w), test_utils=checks)
    five = torch.randn(16, 8, 5, 5)
    torch.library.opcheck(direct, (x, five, [2, 2], 1), test_utils=checks)
    for by_images in (True, False):
        torch.library.opcheck(winograd_backward, (dy, x, w, by_images), test_utils=checks)
        torch.library.opcheck(direct_backward, (dy, x, five, [2, 2], 1, by_images), test_utils=checks)
    with pytest.raises(ValueError, match="these are 3 wide"):
        direct_backward(dy, x, w, [1, 1], 1, True)
    chosen = torch.zeros(3, 16, 5, 6, dtype=torch.int8)
    torch.library.opcheck(pool_backward, (dy, chosen, [2, 3]), test_utils=checks)


class Net(nn.Module):
    """Convolutions that are ours (narrow and wide ones), and those that differ from such in one thing each."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 6, 5, padding=2)
        self.narrow_in_groups = nn.Conv2d(6, 48, 5, padding=2, groups=2, bias=False)
        self.depthwise = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.neither = nn.Conv2d(48, 36, 3, padding=1)
        self.uneven = nn.Conv2d(36, 64, 3, padding=1)  # 36 is no multiple of 8
        self.wide = nn.Conv2d(64, 64, 3, padding=1)
        self.wide_without_bias = nn.Conv2d(64, 72, 3, padding=1, bias=False)
        self.strided = nn.Conv2d(72, 64, 3, padding=1, stride=2)
        self.pointwise = nn.Conv2d(64, 64, 1)
        self.wide_in_groups = nn.Conv2d(64, 64, 3, padding=1, groups=2)
        self.dilated = nn.Conv2d(64, 64, 3, padding=2, dilation=2)
        self.unpadded = nn.Conv2d(64, 64, 3)
        self.last = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in list(self.children())[:-1]:
            x = F.silu(layer(x))
            if layer is self.narrow:
                x = F.max_pool2d(x, 2)
            if layer is self.neither:
                x = F.max_pool2d(x, 3, stride=2, padding=1)  # overlapping
        logits: torch.Tensor = self.last(x.mean((2, 3)))
        return logits


def targets(graph: Graph) -> list[str]:
    names = [str(node.target) for node in graph.nodes]
    return [name for name in names if "convolution" in name or "gradlab" in name]


def traced(dtype: torch.dtype = torch.float32) -> tuple[Net, GraphModule, tuple[torch.Tensor, ...]]:
    """The graph of the gradients of a loss, and what it is called with."""
    import torch._inductor.lowering  # or else what the table names is not there
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    net = Net().to(dtype=dtype, memory_format=LAST)  # type: ignore[call-overload]
    names = [name for name, _ in net.named_parameters()]

    def gradients(x: torch.Tensor, *parameters: torch.Tensor) -> list[torch.Tensor]:
        def loss(trained: dict[str, torch.Tensor]) -> torch.Tensor:
            return F.cross_entropy(functional_call(net, trained, (x,)), torch.arange(4))

        return list(grad(loss)(dict(zip(names, parameters, strict=True))).values())

    x = torch.randn(4, 3, 32, 32, dtype=dtype).to(memory_format=LAST)
    given = (x, *(parameter.detach() for parameter in net.parameters()))
    return net, make_fx(gradients, select_decomp_table(), "fake")(*given), given


def test_the_graph_takes_ours_where_they_are_the_same_convolution() -> None:
    _, graph, given = traced()
    before, reference = targets(graph.graph), graph(*given)
    Rewriting()(graph.graph)
    after = targets(graph.graph)
    own = [name for name in after if "gradlab" in name]
    forward = ["gradlab.direct.default"] * 2 + ["gradlab.winograd.default"] * 2
    backward = ["gradlab.winograd_backward.default"] * 2 + ["gradlab.direct_backward.default"] * 2
    assert own == [*forward, *backward[:-1], "gradlab.pool_backward.default", backward[-1]]
    assert len(after) == len(before) + 1
    graph.recompile()
    for number, other in zip(graph(*given), reference, strict=True):
        assert number.shape == other.shape
        assert difference(number, other.double()) < 1e-4


def test_double_precision_stays_as_it_is() -> None:
    _, graph, _ = traced(torch.float64)
    before = targets(graph.graph)
    Rewriting()(graph.graph)
    assert targets(graph.graph) == before


def test_images_that_fill_few_of_their_tiles_stay_as_they_are() -> None:
    """5×5 pixels fill 0.39 of theirs."""
    graph = Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    node = graph.call_function(rewriting.FORWARD, (x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1))
    w.meta["val"] = torch.empty(64, 64, 3, 3)
    ways = []
    for size in (4, 5, 7, 8, 9, 14):
        x.meta["val"] = torch.empty(1, 64, size, size)
        ways.append(rewriting.way_for(node))
    assert ways == ["winograd", None, "winograd", "winograd", None, "winograd"]


def test_without_a_compiler_convolutions_are_torch_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library.library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    _, graph, _ = traced()
    before, known = targets(graph.graph), Rewriting().uuid()
    Rewriting()(graph.graph)
    assert targets(graph.graph) == before
    # One that is there, and fails.
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'unknown option -fopenmp' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    library.library.cache_clear()
    with pytest.raises(library.Unavailable, match=r"does not compile them \(unknown option -fopenmp\)"):
        library.library()
    monkeypatch.delenv("CC")
    library.library.cache_clear()
    library.library()
    assert [file.suffix for file in (tmp_path / "gradlab/cpu").iterdir()] == [".so"]
    assert Rewriting().uuid() != known  # the compiler of graphs must not remember the other one
    library.library.cache_clear()


CONVOLUTIONS = [
    (nn.Conv2d(3, 16, 3, padding=1), False),
    (nn.Conv2d(32, 64, 3, padding=1), True),
    (nn.Conv2d(32, 64, 3, padding=1, stride=2), False),
    (nn.Conv2d(32, 64, 3, padding="same"), False),
    (nn.Conv2d(32, 64, 3, padding=1, padding_mode="circular"), False),
    (nn.Conv2d(1, 6, 5, padding=2), True),
    (nn.Conv2d(64, 64, 5, groups=64), False),
]


@pytest.mark.parametrize(("layer", "ours"), CONVOLUTIONS)
def test_what_a_compiled_step_does_by_our_operations_is_known_before(
    monkeypatch: pytest.MonkeyPatch, layer: nn.Conv2d, ours: bool
) -> None:
    monkeypatch.setattr("gradlab.cpu.choice.compiler", lambda: "cc")
    network = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(layer.out_channels, 10))
    calls = trace(network, (layer.in_channels, 28, 28))
    share = share_of(calls, torch.empty(0))
    assert (share > 0.9) == ours
    assert share_of(calls, torch.empty(0).double()) == 0
    monkeypatch.setattr("gradlab.cpu.choice.compiler", lambda: None)
    assert share_of(calls, torch.empty(0)) == 0
