"""The image of the tests of attention."""

import numpy as np

IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
