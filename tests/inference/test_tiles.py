import numpy as np
import pytest

from mmdet_detr.inference import Result
from mmdet_detr.inference.tiles import detect_in_tiles

CLASSES = ('blob', 'other')


class BlobDetector:
    """Finds white rectangles; a part of one is less sure than a whole."""

    classes = CLASSES

    def __init__(self, masks: bool) -> None:
        self.masks = masks
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, tiles: list[np.ndarray], score_thr: float, batch_size: int) -> list[Result]:
        assert len(tiles) <= batch_size
        self.sizes += [tile.shape for tile in tiles]
        return [self._find(tile).above(score_thr) for tile in tiles]

    def _find(self, tile: np.ndarray) -> Result:
        white = tile[..., 0] == 255
        rows, columns = white.nonzero()
        if not len(rows):
            nothing = np.zeros(0)
            masks = np.zeros((0, *white.shape), bool) if self.masks else None
            return Result(np.zeros((0, 4), np.float32), nothing.astype(np.float32), nothing.astype(int), CLASSES, masks)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        score = len(rows) / 1000
        masks = white[None] if self.masks else None
        return Result(np.array([box], np.float32), np.array([score], np.float32), np.array([0]), CLASSES, masks)


@pytest.mark.parametrize('masks', [False, True])
@pytest.mark.parametrize('batch_size', [1, 4])
def test_an_object_in_several_tiles_is_found_once(masks, batch_size):
    image = np.zeros((300, 400, 3), np.uint8)
    image[30:50, 85:105] = 255  # cut by the first tile, whole in the second
    image[250:262, 350:370] = 255
    detector = BlobDetector(masks)
    result = detect_in_tiles(detector, image, 100, 0.1, batch_size)
    assert result.boxes.tolist() == [[85, 30, 105, 50], [350, 250, 370, 262]]
    assert result.scores.tolist() == pytest.approx([0.4, 0.24])
    assert result.names == ['blob', 'blob']
    assert max(detector.sizes) == (100, 100, 3)
    if masks:
        assert result.masks.shape == (2, 300, 400)
        assert result.masks.any(0).tolist() == (image[..., 0] == 255).tolist()


def test_nothing_in_any_tile():
    result = detect_in_tiles(BlobDetector(False), np.zeros((150, 150, 3), np.uint8), 100)
    assert (len(result), result.boxes.shape) == (0, (0, 4))
