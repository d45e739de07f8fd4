"""Max pooling whose windows touch and do not overlap, as operations of torch's: ``gradlab::max_pool`` and its derivative.

torch's own writes each window's choice as an index of 64 bits, and its derivative adds to zeros by them. Here a choice is a byte, and
each pixel of the derivative is written once: by the memory's bandwidth, where torch's takes four times as long.
"""

import functools
from typing import Any

import torch

try:
    import triton  # type: ignore[import-untyped]
    from triton import language as tl
except ImportError:  # not on every system that torch is on
    triton = None

MOST_PIXELS = 127
"""Of a window: a choice is an int8, and the kernels are written out for every pixel."""
MOST_NUMBERS = 2**31 - 1
BLOCK = 1024
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _pool(  # type: ignore[no-untyped-def]
        images, pooled, chosen, count,
        height: tl.constexpr, width: tl.constexpr, channels: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
        tall: tl.constexpr, wide: tl.constexpr, block: tl.constexpr, number: tl.constexpr,
    ):  # fmt: skip
        place = tl.program_id(0) * block + tl.arange(0, block)
        inside = place < count
        channel = place % channels
        window = place // channels
        column, row, image = window % columns, (window // columns) % rows, window // (columns * rows)
        first = images + ((image * height + row * tall) * width + column * wide) * channels + channel
        best = tl.load(first, mask=inside).to(number)
        choice = tl.zeros([block], tl.int32)
        for down in tl.static_range(tall):
            for right in tl.static_range(wide):
                if down + right > 0:
                    value = tl.load(first + (down * width + right) * channels, mask=inside).to(number)
                    # The first of equals, and whatever is no number, as torch has it.
                    better = (value > best) | (value != value)
                    best = tl.where(better, value, best)
                    choice = tl.where(better, down * wide + right, choice)
        tl.store(pooled + place, best, mask=inside)
        tl.store(chosen + place, choice.to(tl.int8), mask=inside)

    @triton.jit  # type: ignore[untyped-decorator]
    def _spread(  # type: ignore[no-untyped-def]
        gradient, chosen, result, count,
        height: tl.constexpr, width: tl.constexpr, channels: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
        tall: tl.constexpr, wide: tl.constexpr, block: tl.constexpr, number: tl.constexpr,
    ):  # fmt: skip
        place = tl.program_id(0) * block + tl.arange(0, block)
        inside = place < count
        channel = place % channels
        pixel = place // channels
        x, y, image = pixel % width, (pixel // width) % height, pixel // (width * height)
        row, column = y // tall, x // wide
        pooled = inside & (row < rows) & (column < columns)  # windows need not reach the last rows and columns
        window = ((image * rows + row) * columns + column) * channels + channel
        choice = tl.load(chosen + window, mask=pooled, other=-1)
        given = tl.load(gradient + window, mask=pooled, other=0.0).to(number)
        tl.store(result + place, tl.where(choice == (y % tall) * wide + x % wide, given, 0.0), mask=inside)


@torch.library.custom_op("gradlab::max_pool", mutates_args=(), tags=(torch.Tag.needs_fixed_stride_order,))
def max_pool(images: torch.Tensor, window: list[int], last: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """``F.max_pool2d(images, window)``, the same bits.

    Args:
        images: [images, channels, height, width], of ``DTYPES``.
        window: [height, width], in pixels.
        last: whether a pixel's channels lie beside each other.

    Returns:
        [images, channels, ⌊height / window height⌋, ⌊width / window width⌋], and of the same shape, as int8, which of its pixels a
        window has chosen, counted row after row.
    """
    images = _packed(images, last)
    pooled, chosen = _windows(images, window, last)
    if pooled.numel():
        _launch(_pool, (images, pooled, chosen), pooled.numel(), images.shape, window, last)
    return pooled, chosen


@max_pool.register_fake
def _(images: torch.Tensor, window: list[int], last: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return _windows(images, window, last)


@torch.library.custom_op("gradlab::max_pool_backward", mutates_args=(), tags=(torch.Tag.needs_fixed_stride_order,))
def max_pool_backward(
    gradient: torch.Tensor, chosen: torch.Tensor, window: list[int], height: int, width: int, last: bool
) -> torch.Tensor:
    """The gradient by images [images, channels, height, width] of what has ``gradient`` by ``max_pool(images, window, last)``."""
    result = _new(gradient, (*gradient.shape[:2], height, width), last)
    if result.numel():
        tensors = _packed(gradient, last), _packed(chosen, last), result
        _launch(_spread, tensors, result.numel(), result.shape, window, last)
    return result


@max_pool_backward.register_fake
def _(
    gradient: torch.Tensor, chosen: torch.Tensor, window: list[int], height: int, width: int, last: bool
) -> torch.Tensor:
    return _new(gradient, (*gradient.shape[:2], height, width), last)


class MaxPool(torch.autograd.Function):
    """``max_pool`` with its derivative. Not registered with the operation itself, where torch.func would not find it."""

    @staticmethod
    def forward(images: torch.Tensor, window: list[int], last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        pooled, chosen = torch.ops.gradlab.max_pool(images, window, last)
        return pooled, chosen

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        images, ctx.window, ctx.last = inputs
        ctx.size = images.shape[2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor, None, None]:
        (chosen,) = ctx.saved_tensors
        return _Derivative.apply(gradient, chosen, ctx.window, *ctx.size, ctx.last), None, None


class _Derivative(torch.autograd.Function):
    @staticmethod
    def forward(
        gradient: torch.Tensor, chosen: torch.Tensor, window: list[int], height: int, width: int, last: bool
    ) -> torch.Tensor:
        result: torch.Tensor = torch.ops.gradlab.max_pool_backward(gradient, chosen, window, height, width, last)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> None:
        raise NotImplementedError("max pooling on a GPU has no second derivative in captured and compiled steps")


@functools.cache
def obstacle(device: torch.device) -> str | None:
    """Why there are no such kernels on ``device``, in a few words; or None."""
    if triton is None:
        return "there is no Triton"
    try:
        max_pool(torch.zeros(1, 1, 2, 2, device=device), [2, 2], last=True)
    except Exception as error:  # Triton compiles a starter in C, and that can fail in any way at all
        return f"Triton fails ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]})"
    return None


def _launch(
    kernel: Any, tensors: tuple[torch.Tensor, ...], count: int, shape: torch.Size, window: list[int], last: bool
) -> None:
    _, channels, height, width = shape
    rows, columns = height // window[0], width // window[1]
    # In the other order an image of many channels is as many images of one.
    channels = channels if last else 1
    number = tl.float64 if tensors[0].dtype == torch.float64 else tl.float32  # in which they are compared
    grid = (-(-count // BLOCK),)
    with torch.cuda.device_of(tensors[0]):  # which need not be the current one
        kernel[grid](*tensors, count, height, width, channels, rows, columns, *window, BLOCK, number)


def _windows(images: torch.Tensor, window: list[int], last: bool) -> tuple[torch.Tensor, torch.Tensor]:
    count, channels, height, width = images.shape
    shape = count, channels, height // window[0], width // window[1]
    return _new(images, shape, last), _new(images, shape, last, torch.int8)


def _new(like: torch.Tensor, shape: tuple[int, ...], last: bool, dtype: torch.dtype | None = None) -> torch.Tensor:
    if not last:
        return like.new_empty(shape, dtype=dtype)
    count, channels, height, width = shape
    return like.new_empty((count, height, width, channels), dtype=dtype).permute(0, 3, 1, 2)


def _packed(tensor: torch.Tensor, last: bool) -> torch.Tensor:
    """The same, in memory without gaps."""
    # Not ``contiguous(memory_format=…)``, which takes the strides of a dimension of size 1 as they are.
    return tensor.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) if last else tensor.contiguous()
