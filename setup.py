"""Packaging. Configs, tools and the model index travel in ``mmdet_detr/.mim``, where mim looks for them."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = (ROOT / 'mmdet_detr' / 'version.py').read_text().split("'")[1]
ONEDL = ['onedl-mmengine>=0.10.12', 'onedl-mmcv>=2.3.6', 'onedl-mmdetection>=3.5.1']
OPENMMLAB = ['numpy<2', 'mmengine>=0.10.7,<1', 'mmcv>=2.1.0,<2.2', 'mmdet>=3.3.0,<4']


class BuildWithMim(build_py):
    """Adds ``.mim`` to a wheel. An editable install needs none: mim reads the checkout itself."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, 'mmdet_detr', '.mim')
        shutil.rmtree(target, ignore_errors=True)
        for folder in ('configs', 'tools'):
            shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(ROOT / 'model-index.yml', target)


setup(
    name='mmdet_detr',
    version=VERSION,
    description='DETR for mmdet: exact, fast, hard to break, easy to mix',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.13',
    packages=find_packages(include=['mmdet_detr', 'mmdet_detr.*']),
    package_data={'mmdet_detr': ['py.typed']},
    cmdclass={'build_py': BuildWithMim},
    # No mm* package: pip has no way to say "OneDL's or OpenMMLab's". Importing mmdet_detr says what to install.
    install_requires=[
        'torch>=2.1',
        'numpy',
        'scipy',
        'pillow',
        'rich',
        'matplotlib',
        'pycocotools',
        'safetensors',
        'supervision>=0.31',
    ],
    extras_require={
        'onedl': [*ONEDL, 'onedl-mim>=0.5.1'],
        'openmmlab': [*OPENMMLAB, 'openmim>=0.3.9', 'pandas<2.3', 'setuptools<70'],
        'mminstall': OPENMMLAB,
        'mim': OPENMMLAB,
        'page': ['gradio>=6.31,<7'],
        'page-tests': ['playwright'],  # it drives a browser that is there already
        'gpu-solver': ['torch-linear-assignment'],
        'tests': ['pytest', 'pytest-cov', 'pytest-xdist', 'hypothesis'],
        'export': ['onnx', 'onnxruntime'],
        'openvino': ['onnx', 'onnxruntime', 'openvino'],
        'peers': ['transformers>=5'],  # other implementations, to compare with
        'lint': ['ruff', 'mypy'],
    },
)
