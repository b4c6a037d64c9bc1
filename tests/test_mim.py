import json
from pathlib import Path

import pytest
from helpers import ROOT, loopback_server

from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes

WEIGHTS = b'stand-in for the weights file'


def test_search(run_mim, tmp_path):
    done = run_mim('search', 'mmdet_detr', '--json', tmp_path / 'found.json')
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'found.json').read_text())
    assert 'detr_r50_8x2_500e_coco' in json.dumps(found)


def test_download_from_a_loopback_server(tmp_path, run_python):
    """mim fetches the file named in the metafile; only the host is another one."""
    (tmp_path / 'host' / 'detr').mkdir(parents=True)
    (tmp_path / 'host' / 'detr' / 'detr-r50-e632da11.pth').write_bytes(WEIGHTS)
    with loopback_server(tmp_path / 'host') as address:
        code = (
            'import requests; get = requests.get\n'
            'def redirected(url, **kwargs):\n'
            f'    return get(url.replace("https://dl.fbaipublicfiles.com", "{address}"), **kwargs)\n'
            'requests.get = redirected\n'
            'from mim.commands.download import download\n'
            f'download("mmdet_detr", ["detr_r50_8x2_500e_coco"], dest_root={str(tmp_path / "got")!r})\n'
        )
        done = run_python('-c', code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'got' / 'detr-r50-e632da11.pth').read_bytes() == WEIGHTS
    assert 'mmdet_detr.DETRHead' in (tmp_path / 'got' / 'detr_r50_8x2_500e_coco.py').read_text()


def test_gridsearch(run_mim, tmp_path):
    for split, count in (('train', 8), ('val', 2)):
        list(write_shapes(tmp_path / 'data' / 'shapes', split, count, ShapesOptions()))
    config = tmp_path / 'short.py'
    config.write_text(
        f'_base_ = {str(ROOT / "configs/detr/detr_tiny_shapes.py")!r}\n'
        'train_cfg = dict(max_iters=1)\ntrain_dataloader = dict(batch_size=4)\n'
    )
    arguments = ('--gpus', 0, '--work-dir', 'search', '--search-args', '--model.neck.num_queries 5 7')
    done = run_mim('gridsearch', 'mmdet_detr', config, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob('search*/iter_1.pth'))) == 2


@pytest.mark.parametrize('path', ['configs/detr/detr_tiny_shapes.py', 'tools/train.py', 'model-index.yml'])
def test_mim_finds_configs_and_tools_in_the_installed_package(path):
    from mim.utils import get_installed_path

    root = Path(get_installed_path('mmdet_detr'))
    assert (root / '.mim' / path).is_file() or (root / path).is_file()
