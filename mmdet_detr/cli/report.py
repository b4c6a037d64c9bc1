"""Work of ``mim run mmdet_detr report``."""

import argparse
import logging
import warnings

import torch
from mmengine.logging import MMLogger

from ..reports.run import summarise
from ..reports.run_page import write_page
from .fail import errors_in_one_line


def main(args: argparse.Namespace) -> None:
    """Write the page of a run and print its AP."""
    warnings.simplefilter('ignore')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    logging.disable(logging.WARNING)
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    with errors_in_one_line('report'):
        page = write_page(args.work_dir, args.images, args.columns, args.score_thr, args.evaluated, device)
    print(summarise(args.work_dir))
    print(f'the page: {page}')
