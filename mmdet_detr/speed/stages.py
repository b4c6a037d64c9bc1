"""Times the stages of one step of inference or training."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from ..errors import ConfigError
from .candidates import Candidate
from .inputs import Inputs

INFER_STAGES = ('preprocessing', 'model', 'postprocessing')
TRAIN_STAGES = ('data', 'forward', 'loss', 'backward', 'optimizer')
# Detectors match predictions with objects and compute losses in these methods of a module, or of its attributes.
LOSS_METHODS = ('loss_by_feat', 'loss_and_target', 'get_targets', 'match_loss', 'mask_loss')
LOSS_PARTS = (('bbox_assigner', 'assign'), ('bbox_sampler', 'sample'))
Stages = dict[str, float]  # seconds


class StopWatch:
    """A clock that waits until the device has finished its work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self._now()

    def lap(self) -> float:
        """Seconds since the last lap, or since the start."""
        before, self.before = self.before, self._now()
        return self.before - before

    def _now(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def infer(candidate: Candidate, inputs: Inputs) -> Stages:
    """Seconds of one inference: from files to a batch, to detections, to arrays on the host.

    Raises:
        ConfigError: the detector gives boxes without scores.
    """
    candidate.model.eval()
    watch = StopWatch(candidate.device)
    with torch.no_grad():
        batch = candidate.model.data_preprocessor(inputs.read(), training=False)
        preprocessing = watch.lap()
        with candidate.precision:
            samples = candidate.model(batch['inputs'], batch['data_samples'], mode='predict')
        model = watch.lap()
        found = [sample.pred_instances.cpu() for sample in samples]
        arrays = [(boxes.bboxes.float().numpy(), boxes.scores.float().numpy()) for boxes in found]
        postprocessing = watch.lap()
    if not all(len(boxes) == len(scores) for boxes, scores in arrays):
        raise ConfigError('the detector gives boxes without scores, so it cannot be compared')
    return {'preprocessing': preprocessing, 'model': model, 'postprocessing': postprocessing}


class Trainer:
    """Training steps of a candidate with the optimizer of its config.

    Raises:
        ConfigError: the config has no ``optim_wrapper``.
    """

    def __init__(self, candidate: Candidate) -> None:
        settings = candidate.config.get('optim_wrapper')
        if settings is None:
            raise ConfigError('the config has no optim_wrapper, but training needs one')
        plain = {key: value for key, value in settings.items() if key not in ('type', 'dtype', 'loss_scale')}
        self.candidate = candidate
        self.wrapper = build_optim_wrapper(candidate.model, {'type': 'OptimWrapper', **plain})

    def step(self, inputs: Inputs) -> Stages:
        """Seconds of one training step."""
        candidate, model = self.candidate, self.candidate.model
        model.train()
        watch = StopWatch(candidate.device)
        batch = model.data_preprocessor(inputs.read(), training=True)
        stages = {'data': watch.lap()}
        with candidate.precision, loss_clock(model, candidate.device) as loss_seconds:
            total, _ = model.parse_losses(model(batch['inputs'], batch['data_samples'], mode='loss'))
        stages['forward'] = watch.lap() - loss_seconds()
        stages['loss'] = loss_seconds()
        self.wrapper.backward(total)
        stages['backward'] = watch.lap()
        self.wrapper.step()
        self.wrapper.zero_grad()
        stages['optimizer'] = watch.lap()
        return stages


@contextlib.contextmanager
def loss_clock(model: nn.Module, device: torch.device) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds that the model has spent in matching and losses."""
    passed, depth = 0.0, 0

    def timed(function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed, depth
            if depth:  # the outer method counts this time already
                return function(*args, **kwargs)
            watch, depth = StopWatch(device), depth + 1
            try:
                return function(*args, **kwargs)
            finally:
                depth -= 1
                passed += watch.lap()

        return call

    replaced = []
    for module in model.modules():
        owners: list[tuple[Any, str]] = [(module, name) for name in LOSS_METHODS]
        owners += [(getattr(module, part, None), name) for part, name in LOSS_PARTS]
        for owner, name in owners:
            method = getattr(owner, name, None)
            if isinstance(method, nn.Module):  # a loss such as BipartiteMatchLoss can be a module of its own
                owner, name = method, 'loss_and_matches' if hasattr(method, 'loss_and_matches') else 'forward'
                method = getattr(owner, name)
            if callable(method) and name not in vars(owner):
                vars(owner)[name] = timed(method)
                replaced.append((owner, name))
    try:
        yield lambda: passed
    finally:
        for owner, name in replaced:
            del vars(owner)[name]
