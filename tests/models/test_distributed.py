from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from distributed_worker import predictions, sample_of, train_on_rank
from helpers import targets_from

from mmdet_detr.models import BipartiteMatchLoss


def test_box_losses_are_divided_by_the_mean_number_of_boxes(tmp_path: Path):
    """Every parameter gets the same gradient on two processes, although one of them has no box."""
    mp.spawn(train_on_rank, args=(str(tmp_path),), nprocs=2)
    got = [torch.load(tmp_path / f'{rank}.pth') for rank in range(2)]
    alone = BipartiteMatchLoss()(*predictions(), targets_from([sample_of(0)]))
    for name in ('loss_bbox', 'loss_iou', 'd0.loss_bbox', 'd0.loss_iou'):
        assert got[0]['losses'][name] == pytest.approx(alone[name].item() * 5 / 2.5, rel=1e-5)
        assert got[1]['losses'][name] == 0
    assert got[0]['losses']['loss_cls'] == pytest.approx(alone['loss_cls'].item(), rel=1e-5)
    assert torch.equal(got[0]['gradients'], got[1]['gradients'])
    assert torch.isfinite(got[0]['gradients']).all()
    # Both processes skip a step if one of them has a gradient of NaN.
    assert got[0]['skipped']
    assert got[1]['skipped']
