"""Draw docs/demo.png, the picture of the README, from the demo's results: `make picture`.

A section of the volume to test: image, true membranes, predicted membranes.
"""

from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image

from unetpipe.arrays import open_array
from unetpipe.files import read_json
from unetpipe.volume import VolumeFile

RUN = Path("results/demo")
SECTION = 0
COLOUR = np.array([86, 180, 233], np.float32)
GAP = 8


def over(grey: NDArray[np.uint8], share: NDArray[np.floating]) -> NDArray[np.uint8]:
    """``grey`` (y, x) as colours, painted where ``share`` (y, x) is 1."""
    opacity = 0.75 * share[..., None].astype(np.float32)
    return np.rint(grey[..., None] * (1 - opacity) + COLOUR * opacity).astype(np.uint8)


def main() -> None:
    """Draw and write the picture."""
    volume = VolumeFile.read(RUN / "volumes" / "test" / "volume.json")
    allocated = read_json(RUN / "predictions" / "test" / "allocated.json")
    channel = allocated["classes"].index("membrane")
    grey = np.asarray(open_array(volume.image)[volume.first_section + SECTION])
    truth = np.asarray(open_array(str(volume.labels))[SECTION]) == channel
    array = zarr.open_array(f"{allocated['probability']}/{allocated['array']}", mode="r")
    probability = np.asarray(array[channel, SECTION]) / 255
    panels = [over(grey, np.zeros(grey.shape)), over(grey, truth), over(grey, probability)]
    gap = np.full((grey.shape[0], GAP, 3), 255, np.uint8)
    Image.fromarray(np.hstack([panels[0], gap, panels[1], gap, panels[2]])).save("docs/demo.png", optimize=True)


if __name__ == "__main__":
    main()
