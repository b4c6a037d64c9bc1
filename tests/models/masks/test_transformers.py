"""The whole model against transformers' DetrForSegmentation, with its weights."""

import numpy as np
import pytest
import torch
from foreign import PANOPTIC, hf_panoptic
from masks import NUM_CLASSES, batch
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from torch import Tensor, nn


@pytest.fixture
def twins(tmp_path) -> tuple[nn.Module, nn.Module]:
    theirs = hf_panoptic()
    torch.save(theirs.state_dict, tmp_path / 'weights.pth')
    config = Config({**PANOPTIC.config, 'mask_head': PANOPTIC.mask_head})
    config.backbone.out_indices = (0, 1, 2, 3)
    ours = MODELS.build(config)
    load_checkpoint(ours, str(tmp_path / 'weights.pth'), strict=True)
    return ours, theirs.model


def labels_of(samples: list) -> list[dict[str, Tensor]]:
    labels = []
    for sample in samples:
        h, w = sample.img_shape
        truth = sample.gt_instances
        labels.append(
            {
                'class_labels': truth.labels,
                'boxes': bbox_xyxy_to_cxcywh(truth.bboxes / torch.tensor([w, h, w, h])),
                'masks': torch.from_numpy(np.ascontiguousarray(truth.masks.masks)),
            }
        )
    return labels


def test_outputs_losses_and_gradients(twins):
    """Without padding: there transformers adds a large number in place of -inf, and has other targets."""
    ours, theirs = (model.train() for model in twins)
    images, samples = batch([(70, 101), (70, 101)], [3, 2])
    assert max(sample.gt_instances.labels.max() for sample in samples) < NUM_CLASSES
    out = theirs(pixel_values=images, labels=labels_of(samples))
    logits, boxes, masks = ours(images, samples, mode='tensor')
    torch.testing.assert_close(logits[-1], out.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes[-1], out.pred_boxes, rtol=0, atol=1e-4)
    torch.testing.assert_close(masks, out.pred_masks, rtol=0, atol=1e-3)
    assert masks.std() > 0.1

    losses = ours(images, samples, mode='loss')
    names = {'loss_cls': ('loss_ce', 1), 'loss_bbox': ('loss_bbox', 5), 'loss_iou': ('loss_giou', 2)}
    for name, (their_name, weight) in (names | {n: (n, 1) for n in ('loss_mask', 'loss_dice')}).items():
        assert losses[name].item() == pytest.approx(weight * out.loss_dict[their_name].item(), rel=1e-4), name

    (losses['loss_mask'] + losses['loss_dice']).backward()
    (out.loss_dict['loss_mask'] + out.loss_dict['loss_dice']).backward()
    head, convolutions = ours.mask_head, theirs.mask_head
    pairs = {
        'lay1': convolutions.conv1.conv,
        'lay5': convolutions.fpn_stages[2].refine.conv,
        'adapter1': convolutions.fpn_stages[0].fpn_adapter,
        'out_lay': convolutions.output_conv,
        'bbox_attention.q_linear': theirs.bbox_attention.q_proj,
        'bbox_attention.k_linear': theirs.bbox_attention.k_proj,
    }
    pairs = {name: (head.get_submodule(name), module) for name, module in pairs.items()}
    pairs['input_proj'] = (ours.neck.input_proj, theirs.detr.model.input_projection)
    for name, (own, other) in pairs.items():
        scale = other.weight.grad.abs().max()
        assert scale > 0
        assert (own.weight.grad - other.weight.grad).abs().max() < 1e-3 * scale, name
