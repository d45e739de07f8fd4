"""What a network is shown of an image when it is judged, beside the mean written out by hand."""

import pytest
import torch
from torch import nn

from gradlab.views import answers


class Corner(nn.Module):
    """Answers with the pixels of the upper left 2×2 corner: [batch, 4]."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, :2, :2].flatten(1)


IMAGES = torch.arange(2 * 16, dtype=torch.float32).reshape(2, 1, 4, 4)


def test_plain_is_the_answer_itself() -> None:
    assert torch.equal(answers(Corner(), IMAGES, "plain"), Corner()(IMAGES))


def test_mirrored_is_the_mean_of_two() -> None:
    corner, other = IMAGES[:, 0, :2, :2].flatten(1), IMAGES[:, 0, :2, [3, 2]].flatten(1)
    assert torch.equal(answers(Corner(), IMAGES, "mirrored"), (corner + other) / 2)


def test_shifted_is_the_weighted_mean_of_six() -> None:
    """Row by row: the image moved to the lower right has its second row and column reflected into the first."""
    grid = IMAGES[:, 0]
    down = grid[:, [1, 0, 1, 2]][:, :, [1, 0, 1, 2]]
    up = grid[:, [1, 2, 3, 2]][:, :, [1, 2, 3, 2]]
    views = [
        (grid, 0.25),
        (grid.flip(2), 0.25),
        *((moved, 0.125) for one in (down, up) for moved in (one, one.flip(2))),
    ]
    expected = torch.stack([share * view[:, :2, :2].flatten(1) for view, share in views]).sum(0)
    assert torch.equal(answers(Corner(), IMAGES, "shifted"), expected)


@pytest.mark.parametrize("views", ["plain", "mirrored", "shifted"])
def test_members_answer_together_as_alone(views: str) -> None:
    together = answers(lambda images: torch.stack([Corner()(images), 2 * Corner()(images)]), IMAGES, views)
    alone = answers(Corner(), IMAGES, views)
    assert torch.equal(together, torch.stack([alone, 2 * alone]))
