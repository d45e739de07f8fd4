"""Sums over pixels, from which means and deviations follow exactly."""

import numpy as np
import numpy.typing as npt


def moments(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Of each channel of images [n, channels, height, width] the sums of the pixels and of their squares: [2, channels].

    Exact, so sums over parts of a set add up to those of the set: floats hold whole numbers below 2⁵³.
    """
    channels = [images[:, channel].astype(np.float64).ravel() for channel in range(images.shape[1])]
    return np.array([[pixels.sum() for pixels in channels], [pixels @ pixels for pixels in channels]]).astype(np.int64)
