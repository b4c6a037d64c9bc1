"""Check that mmdet, mmcv and mmengine are there and fit together, before anything of them is used."""

import importlib

from .late_imports import import_late

INSTALL_HELP = """\
mmdet_detr needs mmdet 3.3 or newer with a matching mmcv and mmengine. Install one of the two stacks:
  OneDL:     pip install torch && pip install onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mim
  OpenMMLab: pip install "torch==2.1.2" "numpy<2" openmim && mim install "mmcv==2.1.0" "mmdet==3.3.0"
"""


def require_mmdet() -> None:
    """Import mmdet, with stand-ins for operators that were not built and for packages that few models use.

    The error is a RuntimeError on purpose. mmengine swallows an ImportError raised while it imports a scope, and the
    user would only read that a name is not in the registry.

    Raises:
        RuntimeError: mmdet, mmcv or mmengine is absent, too old, broken, or refuses another of them.
    """
    try:
        import_late()
        from .missing_ops import stand_in_for_missing_ops
        from .missing_panopticapi import stand_in_for_panopticapi

        stand_in_for_missing_ops()
        stand_in_for_panopticapi()
        importlib.import_module('mmcv.ops')  # operators compiled for another torch fail here, not inside mmengine
        mmdet = importlib.import_module('mmdet')
        major, minor = (int(part) for part in mmdet.__version__.split('.')[:2])
    except Exception as error:  # mmdet checks its peers with assert, compiled parts can raise anything
        raise RuntimeError(f'{INSTALL_HELP}(importing mmdet failed: {error})') from error
    if not (3, 3) <= (major, minor) < (4, 0):
        raise RuntimeError(f'{INSTALL_HELP}(found mmdet {mmdet.__version__})')
