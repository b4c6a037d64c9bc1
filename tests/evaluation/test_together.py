"""One test run gives box AP, mask AP and panoptic quality, and pictures."""

import mmcv
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData

from mmdet_detr.datasets.shapes import STUFF, THINGS

PALETTE = [(i * 30, 255 - i * 30, 90) for i in range(7)]
META = {'classes': (*THINGS, *STUFF), 'palette': PALETTE}


class Truth(BaseModel):
    """Predicts the truth, but for images of an even id, where it finds nothing."""

    def forward(self, inputs: list, data_samples: list[DetDataSample], mode: str) -> list[DetDataSample]:
        return [self.predict(sample) for sample in data_samples]

    def predict(self, sample: DetDataSample) -> DetDataSample:
        truth = sample.gt_instances
        masks = torch.from_numpy(truth.masks.to_ndarray()).bool()
        labels = truth.labels if sample.img_id % 2 else truth.labels[:0]
        values = torch.full(sample.ori_shape, len(META['classes']))
        for number, (mask, label) in enumerate(zip(masks, labels, strict=False), 1):
            values[mask] = label + 1000 * number * int(label < len(THINGS))
        sample.pred_panoptic_seg = PixelData(sem_seg=values[None])
        things = torch.nonzero(labels < len(THINGS))[:, 0]
        boxes = truth.bboxes.tensor[things]
        boxes[:, 2:] += 1
        sample.pred_instances = InstanceData(
            bboxes=boxes, scores=torch.ones(len(things)), labels=labels[things], masks=masks[things]
        )
        return sample


def test_all_results_of_one_run(shapes, tmp_path):
    pipeline = [
        {'type': 'LoadImageFromFile'},
        {'type': 'mmdet_detr.LoadPanopticSegments'},
        {'type': 'PackDetInputs', 'meta_keys': ('img_id', 'img_path', 'ori_shape', 'img_shape')},
    ]
    annotations = f'{shapes}/annotations'
    runner = Runner(
        model=Truth(),
        work_dir=str(tmp_path),
        test_dataloader={
            'batch_size': 2,
            'num_workers': 0,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'collate_fn': {'type': 'pseudo_collate'},
            'dataset': {
                'type': 'mmdet_detr.PanopticDataset',
                'data_root': annotations,
                'metainfo': META,
                'ann_file': 'panoptic_val.json',
                'data_prefix': {'img': '../val/', 'seg': 'panoptic_val/'},
                'test_mode': True,
                'pipeline': pipeline,
            },
        },
        test_cfg={'type': 'TestLoop'},
        test_evaluator=[
            {'type': 'mmdet_detr.PanopticMetric', 'ann_file': f'{annotations}/panoptic_val.json'},
            {
                'type': 'mmdet_detr.CocoMetric',
                'ann_file': f'{annotations}/instances_val.json',
                'metric': ['bbox', 'segm'],
            },
        ],
        default_hooks={'visualization': {'type': 'DetVisualizationHook', 'draw': True, 'test_out_dir': 'shown'}},
        visualizer={'type': 'mmdet_detr.PanopticVisualizer', 'name': str(tmp_path).replace('/', '_')},
        default_scope='mmdet',
        experiment_name=str(tmp_path).replace('/', '_'),
    )
    results = runner.test()
    assert results['coco_panoptic/SQ'] == 100
    assert 20 < results['coco_panoptic/PQ'] < 90  # half of the images are missed
    assert 0.2 < results['coco/bbox_mAP'] < 0.9
    assert results['coco/segm_mAP'] == pytest.approx(results['coco/bbox_mAP'], abs=0.2)
    shown = sorted(tmp_path.glob('*/shown/*.jpg'))
    assert len(shown) == 4
    assert all(mmcv.imread(str(path)).shape[0] == 64 for path in shown)
