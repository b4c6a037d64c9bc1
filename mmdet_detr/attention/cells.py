"""Where the cells of a transformer are in an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..models.padding import Size


@dataclass(frozen=True)
class CellMap:
    """Tells the pixels of an image from the cells of the transformer, and the cells from the pixels.

    The network sees the image resized, in the top left corner of a padded input. By the rule of
    :func:`~mmdet_detr.models.padding.image_cells`, the cells of a level span the padded input, and cell i starts at
    pixel ``floor(i * padded / cells)``. So a map is cut where the image ends, and not stretched over it, and
    the cells that an image shows are those that are no padding to the transformer.

    Attributes:
        grids: (rows, columns) of every level; the S cells of all levels lie row by row, one level after another.
        input_size: (H, W) of the padded input in pixels.
        resized: (h, w) of the image in it.
        size: (h, w) of the original image.
    """

    grids: Sequence[Size]
    input_size: Size
    resized: Size
    size: Size

    def at_pixels(self, weights: np.ndarray, size: Size | None = None) -> np.ndarray:
        """The weight of the cell at every pixel; the sum of those of all levels, where there are several.

        Args:
            weights: (S,).
            size: (h, w) of the result; by default of the original image.

        Returns:
            (h, w).
        """
        height, width = size or self.size
        total = np.zeros((height, width), weights.dtype)
        start = 0
        for grid in self.grids:
            level = weights[start : start + grid[0] * grid[1]].reshape(grid)
            total += level[np.ix_(self._cells(0, height, grid[0]), self._cells(1, width, grid[1]))]
            start += level.size
        return total

    def at(self, x: float, y: float) -> int:
        """Index among the S cells of the one at a point in the original image, in the finest level."""
        height, width = self.size
        areas = [rows * columns for rows, columns in self.grids]
        finest = int(np.argmax(areas))
        rows, columns = self.grids[finest]
        row, column = self._cells(0, height, rows)[int(y)], self._cells(1, width, columns)[int(x)]
        return sum(areas[:finest]) + int(row) * columns + int(column)

    def _cells(self, axis: int, length: int, num_cells: int) -> np.ndarray:
        """Row or column of the cell at each of ``length`` pixels that cover the image."""
        step = np.float32(self.input_size[axis] / num_cells)
        starts = np.floor(np.arange(num_cells, dtype=np.float32) * step)
        pixels = np.floor((np.arange(length) + 0.5) * self.resized[axis] / length)
        return np.searchsorted(starts, pixels, side='right') - 1
