"""A picture of a network: from the pixels of one image down to the loss, and the gradients back up.

``outline`` turns a trace (``models.trace``) into what is drawn: boxes, and frames around blocks. Norms and activations join
the box of the layer that they follow, equal neighbours become one with a ×n, and blocks are summed up until all fits a page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from gradlab.models.trace import INPUT, Call

MOST_ROWS = 16  # of boxes on a page, before blocks are summed up
LAST_ROWS = 30  # before the middle is left out

# ------------------------------------------------------------------------------------------------------------- the words


@dataclass(frozen=True)
class Word:
    """What a layer is called in the picture, and its ``role``: what it does there.

    Roles: compute (weights), pool, shape (same numbers, another form), attention, norm, change (small: activations,
    dropout, factors), nothing (not drawn), other.
    """

    text: str
    role: str


ACTIVATIONS = (
    "ReLU", "ReLU6", "LeakyReLU", "GELU", "GELUTanh", "SiLU", "Swish", "Tanh", "Sigmoid", "Hardswish", "HardSwish", "Hardsigmoid",
    "Mish", "ELU", "SELU", "QuickGELU",
)  # fmt: skip
NOTHING = ("Identity", "StochasticDepth", "DropPath", "Dropout2d")


def word(call: Call) -> Word:
    """The word for one call of a layer."""
    layer: Any = call.layer
    kind = call.kind
    if kind in NOTHING or (kind == "Dropout" and not layer.p):
        return Word("", "nothing")
    if hasattr(layer, "kernel_size") and hasattr(layer, "out_channels"):
        size = _times(layer.kernel_size)
        grouped = layer.groups > 1
        each = layer.groups == layer.in_channels == layer.out_channels
        how = " depthwise" if grouped and each else " grouped" if grouped else ""
        stride = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
        steps = f", every {_ordinal(stride)} pixel" if stride > 1 else ""
        if stride > 1 and layer.kernel_size == layer.stride and not grouped:
            return Word(f"cut into {size} patches, {layer.out_channels:,} numbers of each", "compute")
        return Word(f"{size}{how} convolution, {layer.out_channels:,} filters{steps}", "compute")
    if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
        return Word(f"linear layer, {layer.out_features:,} units", "compute")
    if "Attention" in kind:
        heads = getattr(layer, "num_heads", getattr(layer, "heads", None))
        return Word("self-attention" + (f", {heads} heads" if heads else ""), "attention")
    if re.match(r"SqueezeExcit|SEModule", kind):
        return Word("squeeze and excitation", "other")
    if "Pool" in kind:
        return Word(_pool(kind, layer, call), "pool")
    if "Norm" in kind:
        return Word(re.sub(r"(?<=Norm)\w*$", "", kind), "norm")
    if kind == "Flatten":
        return Word("flatten: all numbers in one row", "shape")
    if kind == "Scale":
        return Word(f"× {layer.factor:.3g}", "change")
    if kind == "Dropout":
        return Word(f"dropout {layer.p:g}", "change")
    if kind in ACTIVATIONS:
        return Word(kind, "change")
    return Word(_spoken(kind), "other")


def _pool(kind: str, layer: Any, call: Call) -> str:
    if "Adaptive" in kind or not hasattr(layer, "kernel_size"):
        what = "largest value" if "Max" in kind else "mean"
        return f"{what} over the image" if call.shape[1:] in ((1, 1), ()) else f"{what} over parts of the image"
    what = "max" if "Max" in kind else "mean"
    return f"{_times(layer.kernel_size)} {what} pool"


def _times(size: int | tuple[int, ...]) -> str:
    return f"{size}×{size}" if isinstance(size, int) else "×".join(map(str, size))


def _ordinal(number: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(number, f"{number}th")


FRIENDLY = {
    "Residual": "residual block",
    "PreActivation": "residual block",
    "BasicBlock": "residual block",
    "Bottleneck": "bottleneck block",
    "Block": "transformer block",
    "EncoderBlock": "transformer block",
    "CNBlock": "ConvNeXt block",
}


def _spoken(kind: str) -> str:
    return FRIENDLY.get(kind) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.strip("_")).lower()


# ----------------------------------------------------------------------------------------------------------- the outline


@dataclass
class Box:
    """One row: a layer with what follows it.

    text: its first line. extras: norms and activations after it. last: index of its last call. calls: indices of all.
    """

    text: str
    role: str
    shape: tuple[int, ...]
    parameters: int
    trained: int
    last: int
    calls: list[int]
    extras: list[str] = field(default_factory=list)
    times: int = 1

    @property
    def signature(self) -> tuple[Any, ...]:
        return (self.text, self.shape, self.parameters, tuple(self.extras))


@dataclass
class Plus:
    """Where a shortcut joins: ``around`` are the calls that it leads past, ``text`` what stands on it."""

    last: int
    shape: tuple[int, ...]
    around: set[int]
    text: str
    parameters: int
    trained: int
    extras: list[str] = field(default_factory=list)

    @property
    def signature(self) -> tuple[Any, ...]:
        return (self.text, self.shape, self.parameters, tuple(self.extras))


@dataclass
class Frame:
    """A block of rows; ``shape`` is that of its output."""

    title: str
    items: "list[Item]"
    shape: tuple[int, ...]
    times: int = 1

    @property
    def signature(self) -> tuple[Any, ...]:
        return (self.title, self.times, *(item.signature for item in self.items))

    @property
    def last(self) -> int:
        return self.items[-1].last


Item = Box | Plus | Frame


def outline(calls: list[Call]) -> list[Item]:
    """What is drawn for a trace."""
    items = _collapsed(_Outliner(calls).items(calls[0]))
    while _rows(items) > MOST_ROWS and any(isinstance(item, Frame) for item in items):
        items = _alike_joined(_collapsed([_summed_up(item) if isinstance(item, Frame) else item for item in items]))
    if _rows(items) > MOST_ROWS:
        items = _alike_joined(items)
    if _rows(items) > LAST_ROWS:
        half = LAST_ROWS // 2
        hidden = [box for box in items[half:-half] if not isinstance(box, Frame)]
        end = hidden[-1]
        between = Box(
            f"… {len(hidden)} more rows …", "other", end.shape, sum(box.parameters for box in hidden),
            sum(box.trained for box in hidden), end.last, [],
        )  # fmt: skip
        items = [*items[:half], between, *items[-half:]]
    return items


class _Outliner:
    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self.within: dict[int | None, list[Call]] = {}
        for call in calls:
            self.within.setdefault(call.parent, []).append(call)
        self.words = {call.index: word(call) for call in calls if call.leaf and call.kind != "+"}
        self.pluses: dict[int, Plus] = {}
        self.aside: set[int] = set()  # layers on a shortcut, which stand in no row of their own
        for call in calls:
            if call.kind == "+":
                self._find_shortcut(call)

    def _chain(self, index: int) -> list[int]:
        """``index`` and what led to it, back to the image; through a plus by its longer way, which came last."""
        chain = [index]
        while chain[-1] != INPUT and self.calls[chain[-1]].sources:
            chain.append(self.calls[chain[-1]].sources[-1])
        return chain

    def _find_shortcut(self, call: Call) -> None:
        ways = [self._chain(source) for source in call.sources]
        common = next((index for index in ways[0] if index in ways[1]), INPUT)
        # What comes before the fork is on both ways.
        parts = [way[: way.index(common)] if common in way else way for way in ways]
        short, long = sorted(parts, key=lambda part: sum(self._drawn(index) for index in part))
        layers = [self.calls[index] for index in short if index >= 0 and self.calls[index].kind != "+"]
        self.aside |= {layer.index for layer in layers}
        texts = [self.words[layer.index] for layer in reversed(layers) if layer.index in self.words]
        label = next((text.text.split(" convolution")[0] for text in texts if text.role == "compute"), "")
        self.pluses[call.index] = Plus(
            call.index, call.shape, set(long), label, sum(layer.parameters for layer in layers),
            sum(layer.trained for layer in layers),
        )  # fmt: skip

    def _drawn(self, index: int) -> bool:
        return index in self.words and self.words[index].role != "nothing"

    def items(self, container: Call) -> list[Item]:
        items: list[Item] = []
        for call in self.within.get(container.index, [container]):
            if call.kind == "+":
                items.append(self.pluses[call.index])
            elif call.leaf:
                self._add_leaf(items, call)
            else:
                inner = self.items(call)
                plus = any(isinstance(item, Plus) for item in inner)
                frames = any(isinstance(item, Frame) for item in inner)
                in_a_row = any(base.__name__ == "Sequential" for base in type(call.layer).__mro__)
                if plus or (not in_a_row and not frames and len(inner) > 1):
                    items.append(Frame(_spoken(call.kind), inner, call.shape))
                else:
                    self._extend(items, inner)
        return items

    def _extend(self, items: list[Item], inner: list[Item]) -> None:
        """Append the rows of a container; the first may belong to the row before."""
        first, before = (inner[0] if inner else None), (items[-1] if items else None)
        if (
            isinstance(first, Box)
            and isinstance(before, Box)
            and first.role in ("norm", "change")
            and self._source(self.calls[first.calls[0]]) == before.last
        ):
            before.extras += [first.text, *first.extras]
            before.last, before.shape = first.last, first.shape
            before.parameters += first.parameters
            before.trained += first.trained
            before.calls += first.calls
            inner = inner[1:]
        items += inner

    def _add_leaf(self, items: list[Item], call: Call) -> None:
        said = self.words[call.index]
        if said.role == "nothing" or call.index in self.aside:
            return
        before = items[-1] if items else None
        follows = before is not None and self._source(call) == before.last
        spatial = 1
        if said.role == "shape" and isinstance(before, Box):
            spatial = int(np.prod(before.shape[1:]))
        joins = said.role in ("norm", "change") or (said.role == "shape" and spatial == 1)
        if isinstance(before, Plus):
            joins = said.role == "change"
        if follows and joins and isinstance(before, Box | Plus):
            if said.role != "shape":
                before.extras.append(said.text)
            before.last, before.shape = call.index, call.shape
            before.parameters += call.parameters
            before.trained += call.trained
            if isinstance(before, Box):
                before.calls.append(call.index)
            return
        items.append(Box(said.text, said.role, call.shape, call.parameters, call.trained, call.index, [call.index]))

    def _source(self, call: Call) -> int:
        """What made the input of ``call``, past the layers that are not drawn."""
        source = call.sources[-1] if call.sources else INPUT
        while source >= 0 and source in self.words and not self._drawn(source):
            source = self.calls[source].sources[-1] if self.calls[source].sources else INPUT
        return source


def _rows(items: list[Item]) -> int:
    return sum(_rows(item.items) if isinstance(item, Frame) else isinstance(item, Box) for item in items)


def boxes(items: list[Item]) -> Iterator[Box | Plus]:
    """Every row, from the top."""
    for item in items:
        if isinstance(item, Frame):
            yield from boxes(item.items)
        else:
            yield item


def _collapsed(items: list[Item]) -> list[Item]:
    """Equal neighbours become one with a count."""
    done: list[Item] = []
    for item in items:
        if isinstance(item, Frame):
            item.items = _collapsed(item.items)
        last = done[-1] if done else None
        if not isinstance(item, Plus) and type(last) is type(item) and _once(last) == _once(item):
            assert isinstance(last, Box | Frame)
            last.times += item.times
            if isinstance(last, Box) and isinstance(item, Box):
                last.last = item.last
                last.calls += item.calls
        else:
            done.append(item)
    return done


def _once(item: Item) -> tuple[Any, ...]:
    return replace(item, times=1).signature if isinstance(item, Box | Frame) else item.signature


def _summed_up(frame: Frame) -> Box:
    """A block as one row."""
    inner = list(boxes(frame.items))
    sizes = [row.text.split(" convolution")[0] for row in inner if isinstance(row, Box) and " convolution" in row.text]
    others = [row.text.split(",")[0] for row in inner if isinstance(row, Box) and row.role == "attention"]
    linear = sum(row.times for row in inner if isinstance(row, Box) and row.text.startswith("linear"))
    parts = [f"{', '.join(sizes)} convolution{'s' * (len(sizes) > 1)}"] if 0 < len(sizes) <= 6 else []
    parts += [f"{len(sizes)} convolutions"] if len(sizes) > 6 else []
    parts += others + ([f"{linear} linear layer{'s' * (linear > 1)}"] if linear else [])
    if any(isinstance(row, Plus) for row in inner):
        parts.append("past them a shortcut")
    return Box(
        frame.title, "block", frame.shape, _total(frame.items, "parameters"), _total(frame.items, "trained"),
        inner[-1].last, [], parts, frame.times,
    )  # fmt: skip


def _total(items: list[Item], number: str) -> int:
    return sum(
        item.times * _total(item.items, number)
        if isinstance(item, Frame)
        else getattr(item, number) * getattr(item, "times", 1)
        for item in items
    )


def _alike_joined(items: list[Item]) -> list[Item]:
    """Neighbours with one name and one output become one row, though their weights differ in shape."""
    done: list[Item] = []
    for item in items:
        last = done[-1] if done else None
        if (
            isinstance(item, Box) and isinstance(last, Box) and item.role == last.role and item.role in ("block", "compute")
            and item.text.split(",")[0] == last.text.split(",")[0] and item.shape == last.shape
        ):  # fmt: skip
            total, trained = (
                getattr(last, number) * last.times + getattr(item, number) * item.times
                for number in ("parameters", "trained")
            )
            times = last.times + item.times
            # A row's numbers are those of one of its layers; of unlike ones, the mean.
            done[-1] = replace(
                last, times=times, parameters=total // times, trained=trained // times, last=item.last,
                calls=last.calls + item.calls,
            )  # fmt: skip
        else:
            done.append(item)
    return done


# ----------------------------------------------------------------------------------------------------------- the picture

FORWARD, BACKWARD, INK, FAINT = "#1f4e79", "#c0392b", "#222222", "#6b7280"
FILL = {
    "compute": "#dbeafe", "block": "#dbeafe", "attention": "#e9d5ff", "pool": "#e5e7eb", "shape": "#f3f4f6",
    "norm": "#fef3c7", "change": "#fef3c7", "other": "#f3f4f6", "end": "#fde2e0", "input": "#ffffff",
}  # fmt: skip
LEFT, RIGHT = 1.75, 6.35  # of the boxes, in inches
GO, BACK = 3.35, 4.75  # where the arrows are
SHAPE, NUMBER = 7.5, 9.75
WIDTH = 10.0
GAP, BOX, PLUS, TITLE, FOOT = 0.34, 0.5, 0.26, 0.3, 0.14


def network_diagram(
    calls: list[Call], image: npt.NDArray[np.uint8], title: str, classes: int, loss: str = "cross-entropy"
) -> Figure:
    """The picture of a traced network.

    Args:
        calls: of ``models.trace.trace``.
        image: a sample, uint8 [channels, height, width].
        title: its first line.
        classes: how many.
        loss: what training minimises, in a word.
    """
    items = outline(calls)
    top = 1.35
    height = top + 1.05 + sum(_height(item) + GAP for item in items) + 2 * (BOX + GAP) + 0.35
    figure = Figure(figsize=(WIDTH, height))
    axes: Axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)  # downwards, as the eye reads
    axes.axis("off")
    _Painter(axes, items).paint(calls[0], image, title, classes, loss, top)
    return figure


def draw_network(file: Path, calls: list[Call], image: npt.NDArray[np.uint8], about: str, loss: str) -> None:
    """Write the picture of a run's network, traced as ``calls``; ``about`` says which network on which data."""
    network = calls[0]
    title = f"{about}: {network.trained:,} parameters, {network.multiply_adds:,} multiply-adds for an image"
    figure = network_diagram(calls, image, title, classes=network.shape[-1], loss=loss)
    figure.savefig(file, dpi=100)


def _height(item: Item) -> float:
    if isinstance(item, Frame):
        return TITLE + sum(_height(each) + GAP for each in item.items) - GAP + FOOT
    return PLUS if isinstance(item, Plus) else BOX


class _Painter:
    def __init__(self, axes: Axes, items: list[Item]) -> None:
        self.axes = axes
        self.items = items
        self.taught = False  # whether a row learns, of those so far: above the first one no gradient is needed
        self.places: dict[int, tuple[float, float]] = {}  # call → top and bottom of its row

    def paint(
        self, network: Call, image: npt.NDArray[np.uint8], title: str, classes: int, loss: str, top: float
    ) -> None:
        say = self.axes.text
        say(0.3, 0.36, title, fontsize=14, weight="bold", color=INK, va="center")
        for x, color, text, up in (
            (0.42, FORWARD, "forward: the image becomes one score for each class", False),
            (4.85, BACKWARD, "backward: the loss tells every layer how to change", True),
        ):
            self._arrow(x, 0.66, 0.92, color, up)
            say(x + 0.17, 0.79, text, fontsize=10, color=color, va="center")
        for x, text in ((SHAPE, "numbers passed on"), (NUMBER, "parameters")):
            say(x, top - 0.14, text, fontsize=9, color=FAINT, ha="right" if x == NUMBER else "center", va="center")

        y = self._input(image, top + 0.05)
        for item in self.items:
            y = self._item(item, y + GAP)
        y = self._end(y + GAP, "softmax", f"the scores become {classes:,} probabilities, which sum to 1", (classes,))
        self._between(y, y + GAP)
        self._end(
            y + GAP, f"loss: {loss}", "compared with the label: small where the true class is probable", (), arrow=False
        )

    def _input(self, image: npt.NDArray[np.uint8], y: float) -> float:
        side = 1.0
        picture = np.moveaxis(image, 0, -1)
        if picture.shape[-1] not in (1, 3):
            picture = picture[..., :1]
        high, wide = int(picture.shape[0]), int(picture.shape[1])
        scale = side / float(max(high, wide))
        x = GO - wide * scale / 2
        limits = self.axes.get_ylim()
        self.axes.imshow(
            picture[..., 0] if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255,
            extent=(x, x + wide * scale, y + high * scale, y), aspect="auto", interpolation="nearest", zorder=2,
        )  # fmt: skip
        # imshow takes the limits for its own.
        self.axes.set_xlim(0, WIDTH)
        self.axes.set_ylim(*limits)
        text = "an image: channels × height × width"
        self.axes.text(GO + side / 2 + 0.2, y + high * scale / 2, text, fontsize=9, color=FAINT, va="center")
        self._numbers(y + high * scale / 2, image.shape, 0, 0)
        return y + high * scale

    def _item(self, item: Item, y: float, times: int = 1, first: bool = False) -> float:
        """Paint one row or block at ``y``, ``times`` that of the block around it; returns where it ends."""
        if isinstance(item, Frame):
            return self._frame(item, y)
        self._between(y - GAP, y, up=not first)
        if isinstance(item, Plus):
            return self._plus(item, y, times)
        bottom = y + BOX
        frozen = item.parameters > 0 and item.trained == 0
        self._rounded(
            LEFT, y, RIGHT - LEFT, BOX, FILL[item.role] if not frozen else "#eceff1", "#9ca3af" if frozen else FORWARD
        )
        mostly = item.role == "compute" and 2 * item.trained < item.parameters
        extras = [*item.extras, *(["frozen"] if frozen else ["weights frozen"] if mostly else [])]
        middle = y + BOX / 2
        text = _cut(item.text, 52)
        self.axes.text(LEFT + 0.16, middle - (0.1 if extras else 0), text, fontsize=10.5, color=INK, va="center")
        if extras:
            self.axes.text(
                LEFT + 0.16, middle + 0.12, _cut(" · ".join(extras), 68), fontsize=8.5, color=FAINT, va="center"
            )
        if item.times > 1:
            self.axes.text(
                RIGHT - 0.16,
                middle,
                f"× {item.times}",
                fontsize=13,
                weight="bold",
                color=FORWARD,
                ha="right",
                va="center",
            )
        self._numbers(middle, item.shape, item.times * item.parameters, times)
        for call in [*item.calls, item.last]:
            self.places[call] = (y, bottom)
        self._learned(item)
        return bottom

    def _learned(self, row: Box | Plus) -> None:
        if row.trained:
            self.taught = True

    def _frame(self, frame: Frame, y: float) -> float:
        height = _height(frame)
        self._between(y - GAP, y, down=False)
        self._rounded(LEFT - 0.75, y, RIGHT - LEFT + 0.9, height, "#f8fafc", "#94a3b8", line=1.0, behind=True)
        self.axes.text(RIGHT, y + 0.16, frame.title, fontsize=9, color=FAINT, ha="right", va="center")
        if frame.times > 1:
            self.axes.text(
                LEFT - 0.92,
                y + height / 2,
                f"× {frame.times}",
                fontsize=17,
                weight="bold",
                color=FORWARD,
                ha="right",
                va="center",
            )
        inner = y + TITLE - GAP
        for number, item in enumerate(frame.items):
            inner = self._item(item, inner + GAP, frame.times, first=number == 0)
        self._line(GO, inner, y + height, FORWARD)
        if self.taught:
            self._line(BACK, inner, y + height, BACKWARD)
        return y + height

    def _plus(self, plus: Plus, y: float, times: int) -> float:
        middle = y + PLUS / 2
        self.axes.add_patch(Circle((GO, middle), PLUS / 2, facecolor="white", edgecolor=FORWARD, lw=1.4, zorder=4))
        self.axes.text(GO, middle + 0.005, "+", fontsize=12, color=FORWARD, ha="center", va="center", zorder=5)
        if plus.extras:
            self.axes.text(GO + 0.22, middle, " · ".join(plus.extras), fontsize=8.5, color=FAINT, va="center")
        tops = [self.places[call][0] for call in plus.around if call in self.places]
        if tops:
            start = min(tops) - GAP / 2
            x = LEFT - 0.33
            r = 0.14
            turn = np.linspace(0, np.pi / 2, 12)
            xs = [GO, x + r, *(x + r - r * np.sin(turn)), *(x + r - r * np.cos(turn))]
            ys = [start, start, *(start + r - r * np.cos(turn)), *(middle - r + r * np.sin(turn))]
            self.axes.plot(xs, ys, color=FORWARD, lw=1.5, zorder=3, solid_capstyle="round")
            self.axes.add_patch(_head((x + r, middle), (GO - PLUS / 2, middle), FORWARD))
            label = f"shortcut, {plus.text}" if plus.text else "shortcut"
            self.axes.text(
                x - 0.1, (start + middle) / 2, label, fontsize=8.5, color=FORWARD, rotation=90, ha="center", va="center"
            )
        if plus.parameters:
            self._numbers(middle, (), plus.parameters, times)
        self.places[plus.last] = (y, y + PLUS)
        self._learned(plus)
        if self.taught:
            self._line(BACK, y - 0.02, y + PLUS + 0.02, BACKWARD)
        return y + PLUS

    def _end(self, y: float, text: str, extra: str, shape: tuple[int, ...], arrow: bool = True) -> float:
        if arrow:
            self._between(y - GAP, y)
        self._rounded(LEFT, y, RIGHT - LEFT, BOX, FILL["end"], BACKWARD)
        self.axes.text(LEFT + 0.16, y + 0.15, text, fontsize=10.5, color=INK, va="center")
        self.axes.text(LEFT + 0.16, y + BOX / 2 + 0.12, extra, fontsize=8.5, color=FAINT, va="center")
        if shape:
            self._numbers(y + BOX / 2, shape, 0, 0)
        return y + BOX

    def _between(self, above: float, below: float, down: bool = True, up: bool = True) -> None:
        """What joins two rows, each with a head where asked; gradients go up as far as something learns."""
        (self._arrow if down else self._line)(GO, above, below, FORWARD)
        if self.taught and up:
            self._arrow(BACK, above, below, BACKWARD, up=True)
        elif self.taught:
            self._line(BACK, above, below, BACKWARD)

    def _line(self, x: float, top: float, bottom: float, color: str) -> None:
        self.axes.plot([x, x], [top, bottom], color=color, lw=1.5, zorder=3, solid_capstyle="butt")

    def _arrow(self, x: float, top: float, bottom: float, color: str, up: bool = False) -> None:
        ends = ((x, bottom - 0.02), (x, top + 0.02)) if up else ((x, top + 0.02), (x, bottom - 0.02))
        self.axes.add_patch(_head(*ends, color))

    def _numbers(self, y: float, shape: tuple[int, ...], parameters: int, times: int) -> None:
        if shape:
            self.axes.text(
                SHAPE, y, " × ".join(f"{side:,}" for side in shape), fontsize=10, color=INK, ha="center", va="center"
            )
        if parameters:
            text = f"{times} × {parameters:,}" if times > 1 else f"{parameters:,}"
            self.axes.text(NUMBER, y, text, fontsize=10, color=INK, ha="right", va="center")

    def _rounded(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        edge: str,
        line: float = 1.2,
        behind: bool = False,
    ) -> None:
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.09", facecolor=fill, edgecolor=edge, lw=line,
                zorder=0 if behind else 2,
            )
        )  # fmt: skip


def _head(start: tuple[float, float], end: tuple[float, float], color: str) -> FancyArrowPatch:
    return FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=11, color=color, lw=1.5, shrinkA=0, shrinkB=0, zorder=4
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
