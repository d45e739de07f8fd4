"""A program that ends after the first optimizer step on the digits: gradlab's, with overrides as arguments, or one by hand.

python scripts/benchmarks/first_step.py tracking=none
python scripts/benchmarks/first_step.py 'by hand'
"""

import gc
import os
import sys
from typing import Any

gc.disable()  # as train.py does


def ours() -> None:
    from gradlab.entry import main

    gc.freeze()
    gc.enable()
    import gradlab.run  # imports no torch

    run: Any = gradlab.run
    prepare = run.prepare

    def prepared(*arguments: Any, **named: Any) -> Any:
        from gradlab.learner import Learner

        advance = Learner.after_step

        def after_step(self: Learner, step: int) -> None:
            advance(self, step)
            sys.stdout.flush()
            os._exit(0)

        Learner.after_step = after_step  # type: ignore[method-assign]
        return prepare(*arguments, **named)

    run.prepare = prepared
    sys.exit(main())


def by_hand() -> None:
    """The same step as a script of thirty lines makes it, with scikit-learn's digits."""
    gc.enable()
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    pixels, labels = load_digits(return_X_y=True)
    images, targets = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    batch = torch.randperm(len(images))[:32]
    loss = nn.functional.cross_entropy(model(images[batch]), targets[batch])
    loss.backward()
    optimizer.step()
    os._exit(0)


if __name__ == "__main__":
    by_hand() if sys.argv[1:] == ["by hand"] else ours()
