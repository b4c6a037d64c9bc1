"""The prediction head: class and box of every query, the loss on them, and detections from them."""

from collections.abc import Container, Sequence, Sized
from inspect import signature
from typing import Any, NamedTuple, NoReturn

import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import OptSampleList, SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmdet.utils import ConfigType, InstanceList, OptConfigType, OptMultiConfig
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..errors import ConfigError
from ..registry import MODELS
from .matching.assignment import Solution
from .matching.loss import LOSS_NAMES
from .matching.targets import Targets, targets_of
from .mlp import MLP
from .precision import at_least_float32
from .queries import QuerySets
from .transformer_neck import TransformerOutput

LOSS = {'type': 'mmdet_detr.BipartiteMatchLoss'}
TEST_CFG = ('max_per_img', 'score_thr')
Features = TransformerOutput | Sequence[Tensor] | Tensor


class Detections(NamedTuple):
    """What the head finds in a batch."""

    results: list[InstanceData]  # of each image, with the index of the query of every detection: ``queries`` (N,)
    scores: Tensor  # (B, Q) of the most likely class of every query
    labels: Tensor  # (B, Q), K for no object
    num_classes: int  # K


class Selected(NamedTuple):
    """The detections of a batch, best first."""

    boxes: Tensor  # (B, N, 4) xyxy in pixels
    scores: Tensor  # (B, N)
    labels: Tensor  # int64 (B, N)
    queries: Tensor  # int64 (B, N), indices of the queries that made them


@MODELS.register_module()
class DETRHead(BaseModule):
    """Prediction head of DETR (paper section 3.2): a linear classifier and a three-layer perceptron for the box.

    It reads the output of a transformer. With a transformer of its own it reads feature maps, so that it works as the
    ``bbox_head`` of any single-stage detector of mmdet.

    Args:
        num_classes: K, without the no-object class.
        embed_dims: C, width of the hidden states.
        loss: a :class:`BipartiteMatchLoss`.
        transformer: a :class:`TransformerNeck` to run on feature maps first; None reads a :class:`TransformerOutput`.
        training_queries: sets of queries for training only, such as :class:`QueryGroups` and :class:`DenoisingQueries`.
        dense_supervision: a :class:`DenseSupervision` of the transformer's memory, for training only.
        train_cfg: accepted for mmdet's detectors, which hand it to every head; not read.
        test_cfg: ``max_per_img`` (default, None or negative: all) and ``score_thr`` (default or None: 0). Other keys,
            written for a head with NMS, are not read; the log names them.
        init_cfg: as in mmengine.

    Raises:
        ConfigError: the transformer has another width than ``embed_dims``, or takes no ``training_sets`` for
            ``training_queries``; the classification loss has class weights, but not one for each output.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int = 256,
        loss: ConfigType = LOSS,
        transformer: OptConfigType = None,
        training_queries: Sequence[ConfigType] = (),
        dense_supervision: OptConfigType = None,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.num_classes = num_classes
        self.test_cfg = dict(test_cfg or {})
        unread = sorted(self.test_cfg.keys() - set(TEST_CFG))
        if unread:
            print_log(f'DETRHead needs no NMS and does not read these of test_cfg: {", ".join(unread)}', 'current')
        self.match_loss = MMDET_MODELS.build(loss)
        self.transformer = MMDET_MODELS.build(transformer) if transformer else None
        width = getattr(self.transformer, 'embed_dims', embed_dims)
        if width != embed_dims:
            raise ConfigError(f'DETRHead(embed_dims={embed_dims}) has a transformer with embed_dims={width}')
        self.class_embed = nn.Linear(embed_dims, num_classes + (not self.match_loss.use_sigmoid))
        self._require_weights(getattr(self.match_loss.loss_cls, 'class_weight', None))
        self.bbox_embed = MLP(embed_dims, embed_dims, 4, num_layers=3)
        sizes = {'num_classes': num_classes, 'embed_dims': embed_dims}
        self.training_queries = nn.ModuleList(MODELS.build({**sizes, **queries}) for queries in training_queries)
        self.dense_supervision = MODELS.build(dense_supervision) if dense_supervision else None
        if self.transformer is not None:
            self.check_transformer(self.transformer)

    def _require_weights(self, class_weight: object) -> None:
        outputs = self.class_embed.out_features
        if class_weight is not None and not (isinstance(class_weight, Sized) and len(class_weight) == outputs):
            raise ConfigError(
                f'DETRHead(num_classes={self.num_classes}) has {outputs} outputs, and the class_weight of its loss is '
                f'{class_weight}: give a list of one weight for each'
            )

    def forward(self, x: Features, batch_data_samples: OptSampleList = None) -> tuple[Tensor, Tensor]:
        """Class and box of every query of every decoder layer.

        Args:
            x: output of a transformer; feature maps (B, C', H, W) where the head owns the transformer.
            batch_data_samples: tell the transformer the padding of each image. mmdet's own detectors do not hand them
                over in ``mode='tensor'``; no image is padded then.

        Returns:
            Logits (L, B, Q, K+1), the last one for no object (K outputs with a sigmoid loss), and boxes (L, B, Q, 4),
            cxcywh in units of the unpadded image, at least float32.

        Raises:
            ConfigError: there are no hidden states of this width, and no transformer to make them.
        """
        return self._branches(self._transformed(x, batch_data_samples).hidden)

    def _transformed(
        self, x: Features, batch_data_samples: OptSampleList, training_sets: Sequence[QuerySets] = ()
    ) -> TransformerOutput:
        if self.transformer is not None:
            return self.transformer(x, batch_data_samples, *([training_sets] if training_sets else []))
        width = self.class_embed.in_features
        if isinstance(x, TransformerOutput) and x.hidden.shape[-1] == width:
            return x
        if isinstance(x, TransformerOutput):
            got = f'some of width {x.hidden.shape[-1]}'
        elif isinstance(x, Tensor):
            got = f'a tensor {tuple(x.shape)}'
        else:
            got = f'{len(x)} feature maps, which need transformer=dict(...)'
        raise ConfigError(f'DETRHead(embed_dims={width}) reads hidden states of a transformer, got {got}')

    def _branches(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.class_embed(hidden), at_least_float32(self.bbox_embed(hidden)).sigmoid()

    def check_transformer(self, transformer: nn.Module) -> None:
        """Raise a ConfigError if a transformer cannot decode the training queries."""
        if self.training_queries and 'training_sets' not in signature(transformer.forward).parameters:
            kind = type(transformer).__name__
            raise ConfigError(f'training_queries need a transformer that takes training_sets, not {kind}')

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Leave out entries for training only that this head has no place for."""
        own = self.state_dict()
        for name in [name for name in state_dict if name.startswith(f'{prefix}training_queries.')]:
            place = own.get(name.removeprefix(prefix))
            if place is None or place.shape != state_dict[name].shape:
                del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def training_sets(self, batch_data_samples: SampleList) -> list[QuerySets]:
        """Queries to decode in training beside those of the network; an entry for each of ``training_queries``."""
        if not self.training_queries:
            return []
        targets = self._targets(batch_data_samples)
        return [queries(targets) for queries in self.training_queries]

    def loss(self, x: Features, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Weighted losses of every decoder layer, see :class:`BipartiteMatchLoss`.

        Those of parts for training only stand beside them, with ``group.``, ``dn.`` or ``dense.`` before their names
        and summed over the layers.
        """
        return self.loss_and_matches(x, batch_data_samples)[0]

    def loss_and_matches(self, x: Features, batch_data_samples: SampleList) -> tuple[dict[str, Tensor], Solution]:
        """The losses of :meth:`loss`, and the pairs of queries and objects of every decoder layer."""
        sets = self.training_sets(batch_data_samples) if self.transformer is not None else ()
        output = self._transformed(x, batch_data_samples, sets)
        targets = self._targets(batch_data_samples)
        losses, matches = self.match_loss.loss_and_matches(*self._branches(output.hidden), targets)
        if len(output.training_hidden) != len(self.training_queries):
            raise ConfigError(
                f'the transformer decoded {len(output.training_hidden)} of the {len(self.training_queries)} entries of '
                'training_queries: hand it the training_sets of the head'
            )
        for queries, hidden in zip(self.training_queries, output.training_hidden, strict=True):
            further = queries.loss(*self._branches(hidden), targets, self.match_loss)  # type: ignore[operator]
            losses |= _named(queries.prefix, further, losses)  # type: ignore[arg-type]
        if self.dense_supervision is not None:
            logits, boxes = self._branches(output.memory)
            further = self.dense_supervision.loss(logits, boxes, targets, batch_data_samples, output, self.match_loss)
            losses |= _named(self.dense_supervision.prefix, further, losses)
        return losses, matches

    def _targets(self, batch_data_samples: SampleList) -> Targets:
        return targets_of(
            [sample.gt_instances for sample in batch_data_samples],
            [sample.metainfo for sample in batch_data_samples],
            self.num_classes,
        )

    def predict(self, x: Features, batch_data_samples: SampleList, rescale: bool = True) -> InstanceList:
        """Detections of the last decoder layer, best first.

        Follows ``PostProcess`` of the official ``models/detr.py``, and in addition sorts and clips as mmdet does.

        Args:
            x: as in :meth:`forward`.
            batch_data_samples: give ``img_shape``, ``ori_shape`` and, if resized, ``scale_factor``.
            rescale: boxes in pixels of the original image, else of the network's input.

        Returns:
            For each image ``bboxes`` (N, 4) xyxy in pixels, clipped to the image, ``scores`` (N,), ``labels`` (N,).
        """
        results = self.detect(x, batch_data_samples, rescale).results
        for result in results:
            del result.queries
        return results

    def detect(self, x: Features, batch_data_samples: SampleList, rescale: bool = True) -> Detections:
        """The detections of :meth:`predict` with the queries that made them, and the class of every query."""
        hidden = self._transformed(x, batch_data_samples).hidden[-1]
        metas = [sample.metainfo for sample in batch_data_samples]
        unit = hidden.new_tensor(
            [_unit_size(meta, rescale) for meta in metas], dtype=torch.promote_types(hidden.dtype, torch.float32)
        )
        limits = unit.new_tensor([meta['ori_shape' if rescale else 'img_shape'][1::-1] for meta in metas])
        logits, (boxes, scores, labels, queries) = self.select(hidden, unit, limits)
        results = [
            InstanceData(bboxes=boxes[i], scores=scores[i], labels=labels[i], queries=queries[i])
            for i in range(len(batch_data_samples))
        ]
        score_thr = self.test_cfg.get('score_thr') or 0.0
        if score_thr > 0:
            results = [result[result.scores > score_thr] for result in results]
        probabilities = logits.sigmoid() if self.match_loss.use_sigmoid else logits.softmax(-1)
        return Detections(results, *probabilities.max(-1), self.num_classes)

    def select(self, hidden: Tensor, unit: Tensor, limits: Tensor) -> tuple[Tensor, Selected]:
        """The best detections of a batch, by tensors alone.

        Args:
            hidden: of the last decoder layer, (B, Q, C).
            unit: (width, height) in pixels that a normalised box of 1 x 1 has in each image, (B, 2).
            limits: (width, height) that boxes are clipped to, (B, 2).

        Returns:
            Logits (B, Q, K+1) of all queries, and the best ``max_per_img`` detections.
        """
        logits, boxes = self._branches(hidden)
        logits = at_least_float32(logits)
        scores, labels, queries = self._best(logits)
        boxes = bbox_cxcywh_to_xyxy(boxes.gather(1, queries[..., None].expand(-1, -1, 4)))
        boxes = (boxes * unit.repeat(1, 2)[:, None]).clamp(min=0).minimum(limits.repeat(1, 2)[:, None])
        return logits, Selected(boxes, scores, labels, queries)

    def loss_and_predict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to be the ``rpn_head`` of a two-stage detector, because a DETR makes no proposals."""
        raise ConfigError(
            'DETRHead cannot be a rpn_head: its detections are final. Put it on a single-stage detector as bbox_head, '
            'or beside the two stages with mmdet_detr.AuxiliaryHeadDetector.'
        )

    def get_positive_infos(self) -> NoReturn:
        """Refuse to feed the mask heads of YOLACT and CondInst, because they continue from anchors or points."""
        raise ConfigError(
            'DETRHead cannot feed a mask_head: it has queries instead of the anchors or points that the mask head '
            'continues from. Put it on a detector without masks.'
        )

    def _best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, labels and queries, each (B, N), of the best ``max_per_img`` of logits (B, Q, K+1)."""
        use_sigmoid = self.match_loss.use_sigmoid
        if use_sigmoid:  # A query can be detected as several classes.
            scores = logits.sigmoid().flatten(1)
        else:
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        num_candidates, max_per_img = scores.shape[1], self.test_cfg.get('max_per_img')
        if max_per_img is None or max_per_img < 0:
            max_per_img = num_candidates
        scores, best = scores.topk(min(max_per_img, num_candidates))
        if use_sigmoid:
            return scores, best % self.num_classes, best // self.num_classes
        return scores, labels.gather(1, best), best


def _named(prefix: str, losses: Sequence[Tensor], taken: Container[str]) -> dict[str, Tensor]:
    """Losses by name; a second part of a kind gets a number, as in ``dn2.loss_cls``."""
    number = 1
    start = prefix
    while f'{start}.{LOSS_NAMES[0]}' in taken:
        number += 1
        start = f'{prefix}{number}'
    return {f'{start}.{name}': loss for name, loss in zip(LOSS_NAMES, losses, strict=True)}


def _unit_size(meta: dict, rescale: bool) -> tuple[float, float]:
    """(width, height) in pixels that a normalised box of 1 x 1 has."""
    height, width = meta['img_shape'][:2]
    if not rescale:
        return float(width), float(height)
    scale_w, scale_h = meta.get('scale_factor', (1.0, 1.0))[:2]  # No transform sets it where none resizes.
    return width / float(scale_w), height / float(scale_h)
