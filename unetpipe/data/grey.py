"""Changes of grey values: blur, gamma, contrast, brightness and noise.

Grey values are normalised: a section has mean 0 and standard deviation 1.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from unetpipe.config import Augment
from unetpipe.data.samples import BLACK


@dataclass(frozen=True)
class Grey:
    """One change of grey values, in the order in which it is made.

    ``blur`` is the sigma of a Gaussian in voxels; ``gamma`` an exponent (see :func:`bend`); ``contrast`` a factor;
    ``brightness`` is added; ``noise`` is the standard deviation of Gaussian noise. Noise comes last, so that its
    unit is that of the settings whatever the contrast, and after the blur, as a detector adds it after the optics.
    """

    blur: float
    gamma: float
    contrast: float
    brightness: float
    noise: float

    @classmethod
    def draw(cls, augment: Augment, rng: np.random.Generator) -> "Grey":
        """Blur and noise drawn uniformly up to their bounds, the others from the Gaussians that ``augment`` gives."""
        blur = rng.uniform(0.0, augment.blur)
        gamma = math.exp(rng.normal(0.0, augment.gamma))
        contrast = math.exp(rng.normal(0.0, augment.contrast))
        brightness = rng.normal(0.0, augment.brightness)
        return cls(blur, gamma, contrast, brightness, noise=rng.uniform(0.0, augment.noise))

    def apply(self, image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """The changed ``image`` (z, y, x), each section by itself; without any change, its very values."""
        if self.blur > 0:
            image = gaussian_filter(image, self.blur, mode="mirror", axes=(1, 2))
        if self.gamma != 1:
            image = bend(image, self.gamma)
        image = image * np.float32(self.contrast) + np.float32(self.brightness)
        if self.noise > 0:
            image += np.float32(self.noise) * rng.standard_normal(image.shape, np.float32)
        return image


def bend(image: NDArray[np.float32], gamma: float) -> NDArray[np.float32]:
    """A power law of ``image`` that leaves the mean grey value of a section, and the contrast there, as they are.

    With u = (g - black) / (0 - black), which is 0 at black (:data:`unetpipe.data.samples.BLACK`, the darkest grey
    value that samples hold) and 1 at the mean, g becomes -black * (u**gamma - 1) / gamma: the transform of Box and
    Cox (1964, Journal of the Royal Statistical Society B 26, 211-252) on the scale of the grey values. What is darker
    than black counts as black. A plain power would mostly change brightness and contrast, which have settings of
    their own.
    """
    reach = np.float32(-BLACK)
    u = np.maximum(image / reach + np.float32(1), np.float32(0))
    result: NDArray[np.float32] = (np.power(u, np.float32(gamma)) - np.float32(1)) * np.float32(reach / gamma)
    return result
