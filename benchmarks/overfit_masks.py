"""Train a small DETR with masks on two photographs of COCO until it knows them by heart: does everything fit together?

    python benchmarks/overfit_masks.py FOLDER [--boxes 700] [--masks 1600] [--side 640] [--threads 2]

First its boxes, then everything with the mask head; a step of masks sees one image. (With the rest frozen, as in the
published recipe, PQ was 70 after 1,800 steps of masks, see commit 4554c4e: features of boxes alone do not tell sky
from trees.)

FOLDER is `sample_data` of the COCO panoptic API: panoptic_examples.json, PNGs in panoptic_examples, photographs in
input_images. Data set, training, prediction (both in one batch), metric and pictures are those of the configs.
Writes overfit_masks.json (PQ at the end of the training) and a picture of the predictions.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from training import ROOT, arguments_shown, quietly, runner_of

from mmdet_detr.speed.machine import machine

BASE = ROOT / 'configs' / 'detr' / 'detr_tiny_panoptic_shapes.py'
VALIDATIONS = 10
QUERIES = 100
FOCAL_WEIGHTS = (1.0, 20.0)  # before and after this share of the masks' steps
SWITCH = 0.4


class FocalLossHook(Hook):
    """Dice finds many small masks, which the focal loss, least where all is background, would hide.

    Dice alone does not say how sure a mask is, and the map takes the surest: so the focal loss comes in later.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        late = runner.iter >= SWITCH * runner.max_iters
        runner.model.mask_head.mask_loss.loss_mask.loss_weight = FOCAL_WEIGHTS[late]


def config_for(folder: Path, side: int) -> Config:
    """The demonstration's network, a stage deeper and with COCO's classes, on images with so long a longer side."""
    config = Config.fromfile(BASE)
    model = config.model
    model.backbone.update(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(0, 1, 2))
    model.neck.in_channels = 128
    model.mask_head.in_channels = (32, 64)
    model.neck.num_queries = model.test_cfg.max_per_img = QUERIES
    model.bbox_head.num_classes, model.mask_head.num_things_classes = 133, 80
    resize = {'type': 'mmdet_detr.ShortestSideResize', 'sizes': [side], 'longest': side}
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.batch_size = 2
        dataset = loader.dataset
        dataset.pop('metainfo')  # COCO's
        dataset.data_root, dataset.ann_file = f'{folder}/', 'panoptic_examples.json'
        dataset.data_prefix = {'img': 'input_images/', 'seg': 'panoptic_examples/'}
    load, *_, pack = config.train_pipeline
    segments = {'type': 'mmdet_detr.LoadPanopticSegments', 'box_from': 'json'}
    config.train_dataloader.dataset.pipeline = [load, segments, resize, pack]
    config.val_dataloader.dataset.pipeline = [config.test_pipeline[0], resize, config.test_pipeline[-1]]
    config.val_evaluator = {'type': 'mmdet_detr.PanopticMetric', 'ann_file': f'{folder}/panoptic_examples.json'}
    config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
    config.default_hooks.visualization = {
        'type': 'DetVisualizationHook',
        'draw': True,
        'interval': 1,
        'test_out_dir': 'pictures',
    }
    return config


def of_boxes(config: Config) -> Config:
    del config.model.mask_head, config.model.test_cfg.panoptic
    config.val_cfg = config.val_dataloader = config.val_evaluator = None  # the metric needs masks
    return config


def of_masks(config: Config, iterations: int, weights: Path) -> Config:
    config.load_from = str(weights)
    config.model.backbone.norm_eval = True  # the statistics of both images together
    config.train_dataloader.batch_size = 1
    config.optim_wrapper.optimizer.lr, config.optim_wrapper.muon.lr = 2e-3, 0.01
    config.train_cfg.val_interval = max(1, iterations // VALIDATIONS)
    return config


def picture(folder: Path, path: Path) -> None:
    """Pictures of the last run in a folder, one below the other."""
    last = max(run.parent for run in folder.glob('*/pictures'))  # named by the time
    images = [Image.open(file) for file in sorted(last.glob('pictures/*'))]
    width = max(image.width for image in images)
    page = Image.new('RGB', (width, sum(image.height for image in images)), 'white')
    top = 0
    for image in images:
        page.paste(image, (0, top))
        top += image.height
    page.thumbnail((1600, 1600))
    page.save(path, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help="the COCO panoptic API's sample_data")
    parser.add_argument('--boxes', type=int, default=700, help='steps of boxes, both photographs each (default: 700)')
    parser.add_argument('--masks', type=int, default=1600, help='steps of masks, a photograph each (default: 1600)')
    parser.add_argument('--side', type=int, default=640, help='longer side of the images in pixels (default: 640)')
    parser.add_argument('--threads', type=int, default=2, help='(default: 2)')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'overfit_masks', help='log and pictures')
    arguments = parser.parse_args()
    if not (arguments.folder / 'panoptic_examples.json').exists():
        sys.exit(f'overfit_masks.py: {arguments.folder} has no panoptic_examples.json')
    torch.set_num_threads(arguments.threads)
    folder, start = arguments.folder.resolve(), time.monotonic()

    def train(part: str, config: Config, iterations: int) -> Runner:
        def show(iteration: int) -> None:
            if iteration % 10 == 0:
                seconds = time.monotonic() - start
                print(f'{part}: {iteration} of {iterations}, {seconds:.0f} s', end='\r', file=sys.stderr)

        runner = runner_of(part, config, 0, iterations, arguments.work_dir, show)
        if part == 'masks':
            runner.register_hook(FocalLossHook())
        quietly(runner.train)
        return runner

    boxes = arguments.work_dir / 'boxes.pth'
    trained = train('boxes', of_boxes(config_for(folder, arguments.side)), arguments.boxes)
    torch.save({'state_dict': trained.model.state_dict()}, boxes)
    config = of_masks(config_for(folder, arguments.side), arguments.masks, boxes)
    runner = train('masks', config, arguments.masks)
    minutes = (time.monotonic() - start) / 60
    metrics = quietly(runner.test)
    values = {name: float(np.round(value, 2)) for name, value in metrics.items()}
    results = {
        'command': f'python benchmarks/overfit_masks.py sample_data {arguments_shown(sys.argv[2:])}'.strip(),
        'machine': machine('cpu'),
        'minutes': round(minutes, 1),
        **values,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / 'overfit_masks.json').write_text(json.dumps(results, indent=1) + '\n')
    picture(Path(config.work_dir), arguments.out / 'overfit_masks.jpg')
    print(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
