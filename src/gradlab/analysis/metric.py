"""The number that settings are compared by: which way is better, and how it is written."""

import math
from dataclasses import dataclass

from gradlab.analysis.records import Run
from gradlab.errors import ConfigError

DEFAULT = "best/val_accuracy"
_LOWER = ("loss", "error", "perplexity")
_WORDS = {"best": "", "final": "final", "val": "validation", "train": "training", "test": "test"}


@dataclass(frozen=True)
class Metric:
    """A final metric of a run, by its name in result.json and MLflow."""

    name: str

    @property
    def higher_is_better(self) -> bool:
        return not any(word in self.name for word in _LOWER)

    @property
    def share(self) -> bool:
        """Whether it lies between 0 and 1 and is written in percent."""
        return "accuracy" in self.name

    @property
    def words(self) -> str:
        """``best/val_accuracy`` as "validation accuracy"."""
        parts = self.name.replace("/", "_").split("_")
        return " ".join(word for word in (_WORDS.get(part, part) for part in parts) if word)

    def of(self, run: Run) -> float:
        """Its value for a finished run; NaN for any other."""
        return run.metric(self.name)

    def gain(self, difference: float) -> float:
        """A difference, turned so that more is better."""
        return difference if self.higher_is_better else -difference

    def write(self, value: float) -> str:
        """``97.25%``, or four digits of what is no share."""
        if not math.isfinite(value):
            return "–"
        return f"{value:.2%}" if self.share else f"{value:.4g}"

    def write_difference(self, value: float) -> str:
        """A difference or half an interval, without a sign where it is one of shares: ``0.35 points``."""
        if not math.isfinite(value):
            return "–"
        return f"{100 * value:.2f} points" if self.share else f"{value:.3g}"

    def write_half(self, value: float) -> str:
        return f"{100 * value:.2f}%" if self.share and math.isfinite(value) else self.write_difference(value)


def choosing(name: str) -> Metric:
    """The metric ``name``, to choose by.

    Raises:
        ConfigError: it is one of the test set, which is read once, after the choice.
    """
    if name.startswith("test/"):
        raise ConfigError(
            f"--metric {name}: settings are not chosen by the test set, or its accuracy would say nothing about new "
            f"images any more. Choose by {DEFAULT}; the test accuracy is shown beside it."
        )
    return Metric(name)
