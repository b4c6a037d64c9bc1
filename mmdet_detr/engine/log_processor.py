"""One short line an iteration and one line a validation."""

import re
from datetime import timedelta
from typing import Any

from mmengine.runner import LogProcessor as MMEngineLogProcessor
from mmengine.runner import Runner

from ..compat.terminal import quiet_runs
from ..registry import LOG_PROCESSORS

# The lines of a validation: name of a result in the log, its name here, digits.
SIZES = (('', 'AP'), ('_50', 'AP50'), ('_75', 'AP75'), ('_s', 'S'), ('_m', 'M'), ('_l', 'L'))
LINES = (
    (('coco_panoptic/PQ', 'PQ', 1), ('coco_panoptic/PQ_th', 'things', 1), ('coco_panoptic/PQ_st', 'stuff', 1)),
    tuple((f'coco/bbox_mAP{key}', name, 3) for key, name in SIZES),
    tuple((f'coco/segm_mAP{key}', name if key else 'mask AP', 3) for key, name in SIZES),
)
IN_FILE = re.compile(r'(data_)?time$|coco_panoptic/[SR]Q|.*_precision$')  # in scalars.json only


@LOG_PROCESSORS.register_module()
class LogProcessor(MMEngineLogProcessor):
    """mmengine's ``LogProcessor`` with lines that fit a terminal.

    - An iteration is a line of its loss, seconds, remaining time, learning rate and, on a GPU, memory. The other
      scalars, such as the losses of each decoder layer, are in ``vis_data/scalars.json``.
    - A validation is a line of AP, AP50 and AP75, and of the AP of small, medium and large objects (S, M, L), one more
      for masks and one for panoptic quality.
    - mmengine's lists of the environment, the config, the hooks and the parameters' options, pycocotools' tables and
      some false alarms (:mod:`mmdet_detr.compat.terminal`) are in the log file only. This holds for the runs with this
      log processor; no other logger changes.

    Args:
        all_losses: whether the line of an iteration has all scalars, as mmengine's.
        kwargs: arguments of mmengine's ``LogProcessor``.
    """

    def __init__(self, *args: Any, all_losses: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.all_losses = all_losses

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        """Scalars (all of them) and the line of an iteration; arguments as mmengine's."""
        tag, text = super().get_log_after_iter(runner, batch_idx, mode)
        if self.all_losses or mode != 'train':
            return tag, text
        scalars = {name.removeprefix('train/'): value for name, value in tag.items()}
        items = [text[: text.index(']  ') + 1]]
        if 'loss' in scalars:
            items.append(f'loss {scalars["loss"]:.5g}')
        if 'time' in scalars:
            items.append(f'{scalars["time"]:.3g} s')
        if 'eta' in runner.message_hub.runtime_info:
            items.append(f'eta {_duration(runner.message_hub.get_info("eta"))}')
        rate = scalars.get('base_lr', scalars.get('lr'))  # mmengine's lr is that of the first group, the backbone's
        if rate is not None:
            items.append(f'lr {rate:.1e}')
        if 'memory' in scalars:
            items.append(f'{scalars["memory"] / 1024:.1f} GB')
        return tag, '  '.join(items)

    def get_log_after_epoch(
        self, runner: Runner, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        """Results (all of them) and the line of a validation or a test; arguments as mmengine's."""
        tag, text = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        results = {name.removeprefix(f'{mode}/'): value for name, value in tag.items()}
        lines = [
            [f'{name} {_number(results.pop(key), digits)}' for key, name, digits in line if key in results]
            for line in LINES
        ]
        lines = [line for line in lines if line]
        if not lines:
            return tag, text
        lines[0].insert(0, text[: text.index(']  ') + 1])
        lines[-1] += [f'{name} {_number(value, 3)}' for name, value in results.items() if not IN_FILE.match(name)]
        return tag, '\n    '.join('  '.join(line) for line in lines)


def _duration(seconds: float) -> str:
    """Days without minutes, ten days without hours: the line of a long training has to be short as well."""
    left = timedelta(seconds=int(seconds))
    if not left.days:
        return str(left)
    return f'{left.days}d' if left.days >= 10 else f'{left.days}d {left.seconds // 3600}h'


def _number(value: Any, digits: int) -> str:
    """A result; COCO's -1 says that there are no such objects."""
    if value == -1:
        return '-'
    return f'{value:.{digits}f}' if isinstance(value, float) else str(value)


quiet_runs(lambda runner: isinstance(runner.log_processor, LogProcessor))
