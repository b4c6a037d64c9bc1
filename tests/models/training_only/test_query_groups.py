import pytest
import torch
from helpers import random_sample, targets_from

from mmdet_detr.models import BipartiteMatchLoss, QueryGroups

SAMPLES = [random_sample((64, 64), None, count, num_classes=5) for count in (3, 0)]


def test_every_set_is_matched_by_itself():
    """The losses are those of the network's own queries, summed over layers and averaged over sets."""
    targets, match_loss = targets_from(SAMPLES, 5), BipartiteMatchLoss()
    logits, boxes = torch.randn(2, 2, 3, 7, 6), torch.rand(2, 2, 3, 7, 4) * 0.4 + 0.1  # (L, B, G, Q, ...)
    got = QueryGroups(num_groups=3, num_queries=7, loss_weight=2.0).loss(logits, boxes, targets, match_loss)
    for loss, name in zip(got, ('loss_cls', 'loss_bbox', 'loss_iou'), strict=True):
        alone = [match_loss(logits[:, :, group], boxes[:, :, group], targets) for group in range(3)]
        expected = sum(losses[name] + losses[f'd0.{name}'] for losses in alone) / 3 * 2
        torch.testing.assert_close(loss, expected)


def test_queries_start_as_the_networks_own():
    torch.manual_seed(0)
    queries = QueryGroups(num_groups=2, num_queries=200, embed_dims=64)(targets_from(SAMPLES))
    assert queries.content.shape == queries.pos.shape == (2, 2, 200, 64)
    assert not queries.content.any()
    assert queries.mask is None
    assert queries.pos.std().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(queries.pos[:, 0], queries.pos[:, 1])


@pytest.mark.parametrize('wrong', [{'num_groups': 0}, {'num_queries': 0}])
def test_nothing_to_learn_is_an_error(wrong):
    with pytest.raises(ValueError, match=f'{next(iter(wrong))}=0'):
        QueryGroups(**wrong)
