"""The lines of docs/mmdet_tools.md, run where they say: in a checkout with a run of the demonstration."""

import re
import shlex
from pathlib import Path

import pytest
from helpers import ROOT
from processes import run_tool

from mmdet_detr.checkpoints.files import load_from_local
from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes

PAGE = (ROOT / 'docs' / 'mmdet_tools.md').read_text()
TEST = re.search(r'^mim test mmdet_detr (\S+) --checkpoint (\S+) --gpus 0 (.*)$', PAGE, re.MULTILINE)
LINES = re.findall(r'^\| `(.+?)` \|', PAGE, re.MULTILINE)
WRITTEN = {
    'print_config': ['out/whole.py'],
    'browse_dataset': ['browsed/000007.jpg'],
    'confusion_matrix': ['confusion/confusion_matrix.png'],
    'analyze_results': ['analysed/bad', 'analysed/good'],
    'coco_error_analysis': ['errors/bbox/bbox-circle-small.png'],
    'images2coco': ['data/shapes/annotations/to_label.json'],
}
SAID = {'eval_metric': 'coco/bbox_mAP', 'get_flops': 'Params: 0.45M', 'analyze_logs': r'average iter time|loss\.png'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A checkout with data, a short run in work_dirs/demo, and its predictions."""
    root = tmp_path_factory.mktemp('tools')
    (root / 'configs').symlink_to(ROOT / 'configs')
    (root / 'classes.txt').write_text('circle\n')
    for split, count in (('train', 8), ('val', 4)):
        list(write_shapes(root / 'data' / 'shapes', split, count, ShapesOptions()))
    options = ('train_cfg.max_iters=2', 'train_dataloader.batch_size=4', 'default_hooks.logger.interval=1')
    done = run_tool('train', TEST[1], '--work-dir', 'work_dirs/demo', '--cfg-options', *options, cwd=root)
    assert done.returncode == 0, done.stderr
    (root / 'work_dirs' / 'demo' / 'iter_2.pth').rename(root / TEST[2])
    done = run_tool('test', TEST[1], TEST[2], *shlex.split(TEST[3]), cwd=root)
    assert done.returncode == 0, done.stderr
    assert {'results.pkl', 'results.bbox.json'} <= {path.name for path in root.iterdir()}
    return root


@pytest.mark.parametrize('line', LINES, ids=lambda line: line.split()[0])
def test_line(line, folder):
    name, *arguments = shlex.split(line)
    globbed = [path for word in arguments for path in (sorted(folder.glob(word)) if '*' in word else [word])]
    done = run_tool('mmdet_tool', name, *globbed, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert all((folder / path).exists() for path in WRITTEN.get(name, []))
    assert re.search(SAID.get(name, ''), done.stdout)


def test_the_line_that_publishes(folder):
    line = re.search(r'`mim run\s+mmdet_detr\s+convert_checkpoint ([^`]+)`', PAGE)[1]
    done = run_tool('convert_checkpoint', *line.split(), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert 'neck.query_embed.weight' in load_from_local(str(folder / 'published.pth'))['state_dict']


def test_names(folder):
    done = run_tool('mmdet_tool', cwd=folder)
    assert {line.split()[0] for line in LINES} <= set(done.stdout.split())
    done = run_tool('mmdet_tool', 'confusion', cwd=folder)
    assert (done.returncode, done.stderr.splitlines()[-1].split(':')[0]) == (2, 'mmdet_tool')
    done = run_tool('mmdet_tool', 'eval_metric', 'configs/detr/detr_tiny_shapes.py', 'none.pkl', cwd=folder)
    assert done.returncode == 2
    assert 'none.pkl' in done.stderr.splitlines()[-1]
