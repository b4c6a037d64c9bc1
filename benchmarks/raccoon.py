"""Make data/raccoon of a folder of raccoon photographs with Pascal VOC annotations.

    python benchmarks/raccoon.py FOLDER [--out data/raccoon] [--seed 0]

FOLDER holds images/ and annotations/*.xml (https://github.com/datitran/raccoon_dataset, MIT licence). It has no split:
a fifth of the photographs, drawn by the seed, becomes val.json, the rest train.json. The images are linked.
"""

import argparse
import json
import random
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

SHARE_OF_VAL = 0.2


def coco_of(files: list[Path]) -> dict:
    """A COCO document of VOC files."""
    images, annotations = [], []
    for image_id, file in enumerate(files):
        root = ET.parse(file).getroot()
        width, height = (int(root.findtext(f'size/{side}', '0')) for side in ('width', 'height'))
        images.append({'id': image_id, 'file_name': root.findtext('filename'), 'width': width, 'height': height})
        for box in root.iterfind('object/bndbox'):
            x1, y1, x2, y2 = (float(box.findtext(corner, 'nan')) for corner in ('xmin', 'ymin', 'xmax', 'ymax'))
            sizes = {'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1), 'iscrowd': 0}
            annotations.append({'id': len(annotations) + 1, 'image_id': image_id, 'category_id': 1, **sizes})
    return {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'raccoon'}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='with images/ and annotations/')
    parser.add_argument('--out', type=Path, default=Path('data/raccoon'), help='default: data/raccoon')
    parser.add_argument('--seed', type=int, default=0, help='of the split (default: 0)')
    arguments = parser.parse_args()
    files = sorted((arguments.folder / 'annotations').glob('*.xml'))
    if not files:
        sys.exit(f'raccoon.py: no annotations/*.xml in {arguments.folder}')
    random.Random(arguments.seed).shuffle(files)
    arguments.out.mkdir(parents=True, exist_ok=True)
    number = round(SHARE_OF_VAL * len(files))
    for split, part in (('val', files[:number]), ('train', files[number:])):
        document = coco_of(part)
        (arguments.out / f'{split}.json').write_text(json.dumps(document))
        print(f'{arguments.out / split}.json: {len(part)} images, {len(document["annotations"])} boxes')
    images = arguments.out / 'images'
    if not images.exists():
        images.symlink_to((arguments.folder / 'images').resolve())


if __name__ == '__main__':
    main()
