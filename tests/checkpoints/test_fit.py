import argparse
import copy
import json
import logging
import re
import tempfile
from dataclasses import asdict, replace

import pytest
import safetensors.torch
import torch
from foreign import (
    NUM_CLASSES,
    PANOPTIC,
    R50,
    TINY,
    Foreign,
    hf,
    hf_config,
    hf_panoptic,
    hf_timm,
    mask_head,
    mmdet2_7,
    mmdet2_12,
    mmdet3,
    official,
    official_panoptic,
    ours,
    ours_panoptic,
)
from helpers import ROOT, tiny_detr_config
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import load_state_dict

from mmdet_detr.checkpoints import CheckpointError
from mmdet_detr.checkpoints.class_rows import (
    COCO_IDS,
    COCO_NAMES,
    NAMES_BY_COCO_ID,
    NAMES_BY_PANOPTIC_ID,
    PANOPTIC_IDS,
    PANOPTIC_NAMES,
)
from mmdet_detr.checkpoints.fit import fit_to_model
from mmdet_detr.checkpoints.renaming import to_our_names
from mmdet_detr.checkpoints.source import Source

CATEGORIES = ROOT.parent / 'shared/data/coco_panoptic_sample/panoptic_coco_categories.json'  # not part of the project


@pytest.fixture
def logged():
    """What was logged, line by line."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.extend(record.getMessage().splitlines())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def model_of(num_classes: int = NUM_CLASSES, classes: tuple[str, ...] | None = None, **neck):
    model = MODELS.build(tiny_detr_config(num_classes, **neck))
    if classes:
        model.dataset_meta = {'classes': classes}
    return model


def load(model, state_dict, tmp_path, **more):
    torch.save({'state_dict': state_dict, **more}, tmp_path / 'file.pth')
    load_checkpoint(model, str(tmp_path / 'file.pth'))
    return model


def with_rows(num_rows: int) -> dict:
    """The official weights, with the number of the row in every value of the classifier."""
    rows = torch.arange(float(num_rows))
    return official().state_dict | {'class_embed.weight': rows[:, None].expand(num_rows, 32), 'class_embed.bias': rows}


def rows_of(model) -> list[float]:
    """Where each row of the classifier came from; -1 for rows with their initial values."""
    weight, bias = model.bbox_head.class_embed.weight, model.bbox_head.class_embed.bias
    return [b if torch.all(w == b) else -1 for w, b in zip(weight, bias.tolist(), strict=True)]


def test_coco_ids():
    assert len(COCO_NAMES) == len(COCO_IDS) == 80
    assert len(NAMES_BY_COCO_ID) == 91
    by_id = {1: 'person', 11: 'fire hydrant', 13: 'stop sign', 17: 'cat', 62: 'chair', 90: 'toothbrush'}
    assert {i: NAMES_BY_COCO_ID[i] for i in by_id} == by_id  # from COCO's category table
    assert [COCO_IDS.index(i) for i in by_id] == [0, 10, 11, 15, 56, 79]


def test_category_ids_into_80_classes(tmp_path, logged):
    model = load(model_of(80), with_rows(92), tmp_path)
    assert rows_of(model) == [*COCO_IDS, 91]
    assert '  classes: 80 of 80 classes by COCO category id, and the row of no object' in logged


def test_80_classes_into_category_ids(tmp_path):
    rows = rows_of(load(model_of(91), with_rows(81), tmp_path))
    assert rows[91] == 80
    assert [rows[i] for i in COCO_IDS] == list(range(80))
    assert all(rows[i] == -1 for i, name in enumerate(NAMES_BY_COCO_ID) if name == 'N/A')


def test_names_that_hugging_face_gives_to_unused_ids(tmp_path):
    """The published config.json names them, too: 12 is a street sign, and 13 the stop sign."""
    unused = {12: 'street sign', 26: 'hat', 29: 'shoe', 30: 'eye glasses', 45: 'plate', 66: 'mirror', 68: 'window'}
    labels = {str(i): unused.get(i, name) for i, name in enumerate(NAMES_BY_COCO_ID)}
    assert labels['12'] == 'street sign'
    (tmp_path / 'config.json').write_text(json.dumps({'id2label': labels}))
    torch.save(with_rows(92), tmp_path / 'pytorch_model.bin')
    model = model_of(80)
    checkpoint = load_checkpoint(model, str(tmp_path))
    assert rows_of(model) == [*COCO_IDS, 91]
    assert checkpoint['meta']['dataset_meta']['classes'] == COCO_NAMES  # what mmdet's inference shows
    model = model_of(91)
    checkpoint = load_checkpoint(model, str(tmp_path))
    assert rows_of(model) == list(range(92))
    assert checkpoint['meta']['dataset_meta']['classes'][17] == 'cat'


def test_panoptic_outputs_into_80_classes(tmp_path):
    """250 category ids, of things and of stuff, and no object."""
    assert rows_of(load(model_of(80), with_rows(251), tmp_path)) == [*COCO_IDS, 250]
    assert rows_of(load(model_of(2, ('cat', 'zebra')), with_rows(251), tmp_path)) == [17, 24, 250]


def test_panoptic_coco_ids():
    assert len(PANOPTIC_IDS) == len(PANOPTIC_NAMES) == 133
    assert len(NAMES_BY_PANOPTIC_ID) == 250
    assert NAMES_BY_PANOPTIC_ID[:91] == NAMES_BY_COCO_ID
    by_id = {
        92: 'banner',
        109: 'curtain',
        149: 'road',
        171: 'wall-brick',
        176: 'wall-tile',
        184: 'tree-merged',
        200: 'rug-merged',
    }
    assert {i: NAMES_BY_PANOPTIC_ID[i] for i in by_id} == by_id  # from COCO's panoptic category table
    assert all(NAMES_BY_PANOPTIC_ID[i] == 'N/A' for i in (0, 91, 94, 182, 183, 201, 249))


@pytest.mark.skipif(not CATEGORIES.is_file(), reason=f"COCO's table of categories is not at {CATEGORIES}")
def test_panoptic_coco_ids_are_those_of_the_annotations():
    table = tuple((category['id'], category['name']) for category in json.loads(CATEGORIES.read_text()))
    assert table == tuple(zip(PANOPTIC_IDS, PANOPTIC_NAMES, strict=True))


def test_panoptic_outputs_into_things_and_stuff(tmp_path, logged):
    assert rows_of(load(model_of(133), with_rows(251), tmp_path)) == [*PANOPTIC_IDS, 250]
    assert '  classes: 133 of 133 classes by COCO category id, and the row of no object' in logged
    assert rows_of(load(model_of(133, PANOPTIC_NAMES), with_rows(251), tmp_path)) == [*PANOPTIC_IDS, 250]
    assert rows_of(load(model_of(3, ('water-other', 'okapi', 'cat')), with_rows(251), tmp_path)) == [178, -1, 17, 250]
    assert rows_of(load(model_of(250), with_rows(251), tmp_path)) == list(range(251))


def test_things_and_stuff_into_other_published_numbers(tmp_path):
    rows = rows_of(load(model_of(250), with_rows(134), tmp_path))
    assert [rows[i] for i in PANOPTIC_IDS] == list(range(133))
    assert rows[250] == 133
    assert rows.count(-1) == 251 - 134
    assert rows_of(load(model_of(80), with_rows(134), tmp_path)) == [*range(80), 133]


def test_things_into_things_and_stuff(tmp_path, logged):
    """A checkpoint of boxes starts a panoptic model."""
    assert rows_of(load(model_of(133), with_rows(92), tmp_path)) == [*COCO_IDS, *[-1] * 53, 91]
    assert '  classes: 80 of 133 classes by COCO category id, and the row of no object' in logged
    (line,) = (line for line in logged if 'keep their initial values' in line)
    assert line.startswith('  classes that keep their initial values: banner, blanket, bridge')
    assert line.endswith(' and 43 more')
    assert rows_of(load(model_of(133), with_rows(81), tmp_path)) == [*range(80), *[-1] * 53, 80]


def write_labels(folder, labels, num_rows):
    (folder / 'config.json').write_text(json.dumps({'id2label': {str(i): name for i, name in enumerate(labels)}}))
    torch.save(with_rows(num_rows), folder / 'pytorch_model.bin')


@pytest.mark.parametrize('named', [True, False])
def test_panoptic_labels_of_hugging_face(named, tmp_path):
    """Files name the classes or none of them, and always number the unused ids."""
    labels = [name if named and name != 'N/A' else f'LABEL_{i}' for i, name in enumerate(NAMES_BY_PANOPTIC_ID)]
    write_labels(tmp_path, labels, 251)
    model = model_of(133)
    checkpoint = load_checkpoint(model, str(tmp_path))
    assert rows_of(model) == [*PANOPTIC_IDS, 250]
    assert checkpoint['meta']['dataset_meta']['classes'] == PANOPTIC_NAMES


def test_numbered_labels_of_hugging_face_are_no_names(tmp_path):
    write_labels(tmp_path, ['LABEL_0', 'LABEL_1', 'LABEL_2'], 4)
    model = model_of(3, ('ant', 'bee', 'cat'))
    load_checkpoint(model, str(tmp_path))
    assert rows_of(model) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ('num_rows', 'classes', 'expected'),
    [(251, None, PANOPTIC_NAMES), (92, PANOPTIC_NAMES, PANOPTIC_NAMES), (6, tuple('abcde'), tuple('abcde'))],
)
def test_inference_gets_the_names_of_a_file_without_any(num_rows, classes, expected, tmp_path):
    """mmdet's inference would show COCO's 80 names otherwise, and fail on stuff."""
    torch.save(with_rows(num_rows), tmp_path / 'file.pth')
    checkpoint = load_checkpoint(model_of(len(expected), classes), str(tmp_path / 'file.pth'))
    assert checkpoint['meta']['dataset_meta']['classes'] == expected
    torch.save({'state_dict': with_rows(6), 'meta': {'epoch': 3}}, tmp_path / 'file.pth')
    assert load_checkpoint(model_of(5), str(tmp_path / 'file.pth'))['meta'] == {'epoch': 3}


def test_own_classes_from_coco_by_name(tmp_path, logged):
    model = load(model_of(3, ('zebra', 'okapi', 'cat')), with_rows(92), tmp_path)
    assert rows_of(model) == [24, -1, 17, 91]
    assert '  classes: 2 of 3 classes by COCO category id, and the row of no object' in logged
    assert '  classes that keep their initial values: okapi' in logged
    assert next(line for line in logged if 'left out' in line).endswith(' and 68 more')


def test_a_guess_at_the_classes_is_told(tmp_path, logged):
    """The official code has 91 classes for any file: those of a training on one's own ids 1 and 2 are not COCO's."""
    guess = '  its 92 outputs are taken for COCO categories by their number, since it names no classes'
    assert rows_of(load(model_of(2, ('car', 'person')), with_rows(92), tmp_path)) == [3, 1, 91]
    assert f"{guess}; if it was trained on others, store their names in it, as meta['CLASSES']" in logged
    logged.clear()
    names = ('N/A', 'car', 'person', *['N/A'] * 88)
    model = load(model_of(2, ('car', 'person')), with_rows(92), tmp_path, meta={'CLASSES': names})
    assert rows_of(model) == [1, 2, 91]
    assert not any('taken for' in line for line in logged)
    load(model_of(80, COCO_NAMES), with_rows(92), tmp_path)
    assert guess in logged  # not as a warning: the model's classes are COCO's, too


def test_class_names_on_both_sides(tmp_path, logged):
    meta = {'dataset_meta': {'classes': ('ant', 'bee', 'cat', 'dog', 'elk')}}
    model = load(model_of(4, ('elk', 'fox', 'ant', 'gnu')), with_rows(6), tmp_path, meta=meta)
    assert rows_of(model) == [4, -1, 0, -1, 5]
    assert '  classes: 2 of 4 classes by name, and the row of no object' in logged
    assert '  classes that keep their initial values: fox, gnu' in logged
    assert '  classes left out, because the model lacks them: bee, cat, dog' in logged


def test_same_names_in_another_order(tmp_path):
    meta = {'CLASSES': ['ant', 'bee', 'cat', 'dog', 'elk']}  # mmdet 2.x writes them so.
    model = load(model_of(5, ('elk', 'dog', 'cat', 'bee', 'ant')), with_rows(6), tmp_path, meta=meta)
    assert rows_of(model) == [4, 3, 2, 1, 0, 5]


def test_unknown_classes_of_another_number_start_anew(tmp_path):
    assert rows_of(load(model_of(3), with_rows(6), tmp_path)) == [-1, -1, -1, 5]


def test_80_classes_without_names_into_own_ones(tmp_path):
    assert rows_of(load(model_of(2, ('person', 'okapi')), with_rows(81), tmp_path)) == [0, -1, 80]


def test_names_unlike_coco_are_no_reason_to_start_anew(tmp_path):
    """81 outputs without names may be any 80 classes."""
    own = tuple(f'part {i}' for i in range(80))
    assert rows_of(load(model_of(80, own), with_rows(81), tmp_path)) == list(range(81))


def test_names_that_do_not_fit_are_told(tmp_path, logged):
    meta = {'dataset_meta': {'classes': ('a', 'b')}}
    assert rows_of(load(model_of(5, ('c', 'd')), with_rows(6), tmp_path, meta=meta)) == list(range(6))
    assert '  the 2 class names of the data do not fit the 5 classes of the model' in logged
    assert '  the 2 class names of the checkpoint do not fit its 6 outputs' in logged


def test_sigmoid_rows_are_not_taken_for_no_object(tmp_path, logged):
    """Six classes of a sigmoid classifier into five and no object."""
    meta = {'dataset_meta': {'classes': tuple('abcdef')}}
    model = load(model_of(5, tuple('abcde')), with_rows(6), tmp_path, meta=meta)
    assert rows_of(model) == [0, 1, 2, 3, 4, -1]
    assert '  classes that keep their initial values: no object' in logged


def test_sigmoid_classifier_has_no_row_of_no_object(tmp_path):
    config = tiny_detr_config(80)
    config.bbox_head.loss = {'type': 'mmdet_detr.BipartiteMatchLoss', 'loss_cls': {'type': 'FocalLoss'}}
    model = load(MODELS.build(config), with_rows(92), tmp_path)
    assert rows_of(model) == list(COCO_IDS)


def test_fewer_queries_are_sliced_and_more_are_tiled(tmp_path, logged):
    weights = official().state_dict
    queries = weights['query_embed.weight']
    fewer = load(model_of(num_queries=7), weights, tmp_path).neck.query_embed.weight
    assert torch.equal(fewer, queries[:7])
    assert '  queries: the first 7 of 12' in logged
    more = load(model_of(num_queries=29), weights, tmp_path).neck.query_embed.weight
    assert torch.equal(more[:12], queries)
    for tiled in (more[12:24] - queries, more[24:] - queries[:5]):
        assert 0 < tiled.abs().max() < 0.1 * queries.std()
    assert '  queries: 12 repeated to make 29, with a little noise' in logged
    again = load(model_of(num_queries=29), weights, tmp_path).neck.query_embed.weight
    assert torch.equal(more, again)  # every process of a distributed run gets the same


@pytest.mark.parametrize('prefix', ['module.', 'model.', 'module.model.', '_orig_mod.', 'ema.module.'])
@pytest.mark.parametrize('build', [official, mmdet3, ours], ids=lambda build: build.__name__)
def test_prefixes_of_wrappers(build, prefix, tmp_path):
    weights = build().state_dict
    plain = load(model_of(), weights, tmp_path).state_dict()
    wrapped = load(model_of(), {prefix + name: value for name, value in weights.items()}, tmp_path).state_dict()
    assert all(torch.equal(wrapped[name], value) for name, value in plain.items())


def test_averaged_model_with_counter(tmp_path, logged):
    weights = {'n_averaged': torch.tensor(7), **{f'module.{name}': v for name, v in official().state_dict.items()}}
    load(model_of(), weights, tmp_path)
    assert '  dropped: n_averaged (counter of an averaged model)' in logged


def test_entries_beside_the_network(tmp_path, logged):
    """The averaged copies of mmdet 2.x and the buffer of the official loss."""
    weights = mmdet2_7().state_dict | {'ema_backbone_conv1_weight': torch.zeros(1)}
    load(model_of(), weights, tmp_path)
    assert any(line.startswith('  dropped: ema_backbone_conv1_weight (averaged copy') for line in logged)
    load(model_of(), official().state_dict | {'criterion.empty_weight': torch.zeros(1)}, tmp_path)
    assert '  dropped: criterion.empty_weight (buffer of the loss)' in logged


def test_a_model_and_its_averaged_copy_report_once(tmp_path, logged):
    """mmengine's EMA hook loads a copy of the state dict first."""
    torch.save({'model': official().state_dict}, tmp_path / 'once.pth')
    checkpoint = load_checkpoint(model_of(), str(tmp_path / 'once.pth'))
    load_state_dict(model_of(), copy.deepcopy(checkpoint['state_dict']))
    assert len([line for line in logged if line.startswith(f'Loaded {tmp_path}/once.pth')]) == 1


def test_report(tmp_path, logged):
    load(model_of(), official().state_dict, tmp_path, optimizer={}, epoch=3)
    report = [line for line in logged if line.startswith(('Loaded', '  '))]
    assert report == [
        f'Loaded {tmp_path}/file.pth, facebookresearch/detr: 191 entries used, 2 dropped, 20 missing',
        '  classes: all 6 rows as they are',
        '  dropped: optimizer, epoch (no weights of the network)',
        '  missing: backbone.bn1.num_batches_tracked, backbone.layer1.0.bn1.num_batches_tracked, '
        'backbone.layer1.0.bn2.num_batches_tracked and 17 more (counters of BatchNorm: frozen ones have none)',
    ]


def test_plain_load_state_dict_takes_every_layout_and_parts(logged):
    model = model_of()
    model.load_state_dict(official().state_dict)
    assert any(line.startswith('Loaded the state dict, facebookresearch/detr') for line in logged)
    logged.clear()
    model.load_state_dict(model.state_dict())
    part = {'neck.input_proj.bias': torch.ones(32)}
    model.load_state_dict(part, strict=False)
    assert torch.equal(model.neck.input_proj.bias, part['neck.input_proj.bias'])
    assert not logged


def test_resnet_loads_as_backbone(tmp_path, logged):
    model = model_of()
    neck = {name: value.clone() for name, value in model.neck.state_dict().items()}
    backbone = {name.removeprefix('backbone.'): v for name, v in ours().state_dict.items() if 'backbone' in name}
    load(model, {**backbone, 'fc.weight': torch.zeros(10, 64), 'fc.bias': torch.zeros(10)}, tmp_path)
    assert all(torch.equal(value, backbone[name]) for name, value in model.backbone.state_dict().items())
    assert all(torch.equal(value, neck[name]) for name, value in model.neck.state_dict().items())
    assert '  dropped: fc.weight, fc.bias (classifier of ImageNet)' in logged
    assert any('not in the checkpoint, keeps its initial values' in line for line in logged)


def model_with_masks(sizes=TINY):
    model = MODELS.build(sizes.config)
    model.mask_head = mask_head(sizes)
    return model


def hf_panoptic_files() -> Foreign:
    """Under the names that transformers writes into files."""
    foreign = hf_panoptic()
    with tempfile.TemporaryDirectory() as folder:
        foreign.model.save_pretrained(folder)
        saved = safetensors.torch.load_file(f'{folder}/model.safetensors')
    assert saved.keys() != foreign.state_dict.keys()
    return Foreign(saved, foreign.forward, foreign.model)


MASKS = {
    'official': (official_panoptic, TINY, {'lay4': 'mask_head.lay4', 'q': 'bbox_attention.q_linear'}),
    'transformers, in memory': (
        hf_panoptic, PANOPTIC, {'lay4': 'mask_head.fpn_stages.1.refine.conv', 'q': 'bbox_attention.q_proj'},
    ),
    'transformers, in files': (
        hf_panoptic_files, PANOPTIC, {'lay4': 'mask_head.lay4', 'q': 'bbox_attention.q_linear'},
    ),
    'ours': (ours_panoptic, TINY, {'lay4': 'mask_head.lay4', 'q': 'mask_head.bbox_attention.q_linear'}),
}  # fmt: skip


@pytest.mark.parametrize('layout', MASKS)
def test_mask_head(layout, tmp_path, logged):
    """Every entry arrives once, and two of them are looked up by name."""
    build, sizes, names = MASKS[layout]
    weights = build().state_dict
    model = model_with_masks(sizes)
    before = copy.deepcopy(model.mask_head.state_dict())
    load(model, weights, tmp_path)
    assert torch.equal(model.mask_head.lay4.weight, weights[f'{names["lay4"]}.weight'])
    assert torch.equal(model.mask_head.bbox_attention.q_linear.bias, weights[f'{names["q"]}.bias'])
    given = sorted(
        value.double().sum().item() for name, value in weights.items() if re.search('mask_head|bbox_att', name)
    )
    loaded = model.mask_head.state_dict()
    assert len(loaded) == len(given) == 32
    assert sorted(value.double().sum().item() for value in loaded.values()) == given
    assert not any(torch.equal(value, before[name]) for name, value in loaded.items())
    assert not [line for line in logged if 'mask_head.' in line]


def test_both_namings_of_transformers_are_one(tmp_path):
    """The names in memory, and those that transformers itself makes of them in a file."""
    theirs = hf_panoptic()
    theirs.model.save_pretrained(tmp_path)
    in_memory = to_our_names(theirs.state_dict, 'memory').weights
    in_file = to_our_names(safetensors.torch.load_file(tmp_path / 'model.safetensors'), 'file').weights
    assert in_memory.keys() == in_file.keys()
    for name, value in in_memory.items():
        assert torch.equal(value, in_file[name]), name


@pytest.mark.parametrize('layout', MASKS)
def test_mask_head_for_a_model_without_one(layout, tmp_path, logged):
    build, sizes, _ = MASKS[layout]
    load(MODELS.build(sizes.config), build().state_dict, tmp_path)
    (line,) = (line for line in logged if 'dropped: ' in line)
    assert re.fullmatch(r'  dropped: mask_head\..+ and 29 more \(the model has no such part\)', line)


@pytest.mark.parametrize('build', [official, hf, mmdet3, ours], ids=lambda build: build.__name__)
def test_boxes_for_a_model_with_a_mask_head(build, tmp_path, logged):
    weights = build().state_dict
    model = model_with_masks()
    before = copy.deepcopy(model.mask_head.state_dict())
    load(model, weights, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.mask_head.state_dict().items())
    boxes = load(model_of(), weights, tmp_path).state_dict()
    assert all(
        torch.equal(value, boxes[name]) for name, value in model.state_dict().items() if 'mask_head.' not in name
    )
    (line,) = (line for line in logged if 'mask_head.' in line)
    assert re.fullmatch(
        r'  missing: mask_head\..+ and 29 more \(not in the checkpoint, keeps its initial values\)', line
    )


def test_half_a_mask_head(tmp_path):
    weights = official_panoptic().state_dict
    del weights['mask_head.gn3.bias']
    with pytest.raises(CheckpointError, match=r'does not fit the model: the checkpoint lacks mask_head\.gn3\.bias'):
        load(model_with_masks(), weights, tmp_path)
    weights = official_panoptic().state_dict | {'mask_head.adapter1.weight': torch.zeros(16, 64, 1, 1)}
    with pytest.raises(CheckpointError, match=r'mask_head\.adapter1\.weight is \(16, 64, 1, 1\) in the checkpoint and'):
        load(model_with_masks(), weights, tmp_path)


def half_a_transformer(weights):
    return {name: value for name, value in weights.items() if 'decoder.layers.2' not in name}


MISMATCHES = {
    'the model lacks neck.decoder.layers.2.self_attn.in_proj_weight': ({'num_decoder_layers': 2}, dict),
    'the checkpoint lacks neck.encoder.layers.2.self_attn.in_proj_weight': ({'num_encoder_layers': 3}, dict),
    'the checkpoint lacks neck.decoder.layers.2.self_attn.in_proj_weight': ({}, half_a_transformer),
    'linear1.weight is (48, 32) in the checkpoint and (64, 32) in the model': ({'feedforward_channels': 64}, dict),
}


@pytest.mark.parametrize('message', MISMATCHES)
def test_other_architecture_is_an_error_and_leaves_the_model(message, tmp_path):
    neck, change = MISMATCHES[message]
    model = model_of(**neck)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load(model, change(official().state_dict), tmp_path)
    assert str(error.value).startswith(f'{tmp_path}/file.pth does not fit the model: ')
    assert message in str(error.value)
    assert '\n' not in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_heads_and_dilation_are_compared_where_the_file_tells_them(tmp_path):
    weights = official().state_dict
    with pytest.raises(CheckpointError, match='its attention has 8 heads, that of the model 4'):
        load(model_of(), weights, tmp_path, args=argparse.Namespace(nheads=8, dilation=False))
    with pytest.raises(CheckpointError, match=r'its backbone is dilated \(DC5\), that of the model not dilated'):
        load(model_of(), weights, tmp_path, args=argparse.Namespace(nheads=4, dilation=True))
    load(model_of(), weights, tmp_path, args=argparse.Namespace(nheads=4, dilation=False))


def test_hugging_face_settings_that_we_lack_are_an_error(tmp_path):
    torch.save(official().state_dict, tmp_path / 'pytorch_model.bin')
    (tmp_path / 'config.json').write_text('{"activation_function": "gelu"}')
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model_of(), str(tmp_path))
    assert str(error.value) == f'{tmp_path} does not fit the model: its activation_function is gelu'


def test_containers_without_weights(tmp_path):
    for content, first in (({'epoch': 1, 'lr': 2}, 'epoch, lr'), ({}, 'nothing')):
        torch.save(content, tmp_path / 'file.pth')
        with pytest.raises(CheckpointError, match=f'is no checkpoint of a DETR: its first entries are {first}'):
            load_checkpoint(model_of(), str(tmp_path / 'file.pth'))


def test_checkpoint_of_another_detector_is_an_error(tmp_path):
    """Its backbone alone would fit."""
    backbone = {name: value for name, value in ours().state_dict.items() if 'backbone' in name}
    with pytest.raises(CheckpointError, match='is no checkpoint of a DETR'):
        load(model_of(), backbone | {'bbox_head.retina_cls.weight': torch.zeros(1)}, tmp_path)


def test_name_of_a_dc5_file_is_a_hint(tmp_path, logged):
    torch.save({'model': official().state_dict}, tmp_path / 'detr-r50-dc5-f0fb7ef5.pth')
    load_checkpoint(model_of(), str(tmp_path / 'detr-r50-dc5-f0fb7ef5.pth'))
    assert any("The file's name says DC5, but the model's backbone is not dilated" in line for line in logged)


CONFIGS = ['detr_r18_8x2_500e_coco', 'detr_r50_8x2_500e_coco', 'detr_r101_8x2_500e_coco']


@pytest.mark.parametrize('name', CONFIGS)
def test_error_names_the_config_to_use(name, tmp_path):
    """Weights of every published depth into a model of another."""

    def build(config):
        config = Config.fromfile(ROOT / f'configs/detr/{config}.py').model
        config.backbone.init_cfg = None
        with torch.device('meta'):
            return MODELS.build(config)

    weights = build(name).state_dict()
    other = build('detr_r50_8x2_500e_coco' if 'r50' not in name else 'detr_r101_8x2_500e_coco')
    depth = name.split('_')[1].removeprefix('r')
    with pytest.raises(CheckpointError) as error:
        fit_to_model(other, weights, '', {'source': asdict(Source('file.pth'))})
    assert f'The checkpoint has a ResNet-{depth} with 6 encoder and 6 decoder layers of width 256' in str(error.value)
    assert f'use configs/detr/{name}.py' in str(error.value)
    assert ('for DC5, configs/detr/detr_r' in str(error.value)) == (depth != '18')


@pytest.mark.parametrize('masks_in', ['checkpoint', 'model'])
def test_error_names_the_config_with_masks(masks_in, tmp_path):
    """A panoptic file in a model for boxes, and a file of boxes in a panoptic model, each of another depth."""
    with torch.device('meta'):
        given, model = MODELS.build(R50.config), MODELS.build(replace(R50, depth=101).config)
        (given if masks_in == 'checkpoint' else model).mask_head = mask_head(R50)
    with pytest.raises(CheckpointError) as error:
        fit_to_model(model, given.state_dict(), '', {'source': asdict(Source('file.pth'))})
    assert str(error.value).endswith(
        'use configs/detr/detr_r50_panoptic_8x2_25e_coco.py or, for DC5, '
        'configs/detr/detr_r50-dc5_panoptic_8x1_25e_coco.py'
    )


def test_published_names_and_shapes_fit_the_published_config():
    """A whole R50 of transformers, without values: every entry has its place."""
    transformers = pytest.importorskip('transformers', minversion='5', reason='needs transformers 5')
    with torch.device('meta'):
        theirs = transformers.DetrForObjectDetection(hf_config(R50)).state_dict()
        config = Config.fromfile(ROOT / 'configs/detr/detr_r50_8x2_500e_coco.py').model
        config.backbone.init_cfg = None
        config.bbox_head.num_classes = 91
        own = MODELS.build(config).state_dict()
    named = to_our_names(theirs, 'r50')
    assert named.layout.name == 'hf'
    expected = {name: value.shape for name, value in own.items() if 'num_batches' not in name}
    assert {name: value.shape for name, value in named.weights.items()} == expected


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: {'some.weight': torch.zeros(1)}, 'is no checkpoint of a DETR: its first entries are some.weight'),
        (lambda w: w | {'extra.weight': torch.zeros(1)}, 'but extra.weight belongs to no DETR'),
        (lambda w: {n: v for n, v in w.items() if n != 'class_embed.bias'}, 'lacks bbox_head.class_embed.bias'),
        (lambda w: w | {'query_embed.weight': torch.zeros(0, 32)}, 'its classifier or queries are incomplete'),
        (lambda w: w | {'class_embed.bias': torch.zeros(2)}, 'its classifier or queries are incomplete'),
    ],
)
def test_not_a_detr(change, message, tmp_path):
    with pytest.raises(CheckpointError) as error:
        load(model_of(), change(official().state_dict), tmp_path)
    assert message in str(error.value)


HEADS = r'class|fc_cls|bbox_(embed|predictor)|fc_reg|reg_ffn'
QUERIES = r'query_(embed|position)'


@pytest.mark.parametrize('removed', [r'class|fc_cls', QUERIES, HEADS, f'{HEADS}|{QUERIES}'])
@pytest.mark.parametrize('build', [official, official_panoptic, hf, hf_timm, mmdet3, mmdet2_12, mmdet2_7, ours])
def test_heads_and_queries_that_were_removed_start_anew(build, removed, tmp_path, logged):
    model = model_of()
    weights = {name: value for name, value in build().state_dict.items() if not re.search(removed, name)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load(model, weights, tmp_path)
    for name, value in model.state_dict().items():
        if 'num_batches' not in name:
            assert torch.equal(value, before[name]) == bool(re.search(removed, name)), name
    assert any('removed from the checkpoint, keeps its initial values' in line for line in logged)


def test_half_an_attention(tmp_path):
    weights = hf().state_dict
    del weights['model.encoder.layers.1.self_attn.k_proj.bias']
    with pytest.raises(CheckpointError, match=r'lacks model\.encoder\.layers\.1\.self_attn\.k_proj\.bias'):
        load(model_of(), weights, tmp_path)


PARTS = [{'type': 'mmdet_detr.QueryGroups', 'num_queries': 6}, {'type': 'mmdet_detr.DenoisingQueries'}]


def trained_with_parts(num_classes: int = NUM_CLASSES):
    config = tiny_detr_config(num_classes)
    config.bbox_head.training_queries = copy.deepcopy(PARTS)
    return MODELS.build(config)


def test_parts_for_training_only_stay_out_of_a_plain_model(tmp_path, logged):
    full = trained_with_parts()
    plain = load(model_of(), full.state_dict(), tmp_path)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, full.state_dict()[name]), name
    assert any('dropped: ' in line and 'for training only' in line for line in logged)
    assert not [line for line in logged if 'unexpected' in line]


def test_parts_for_training_only_start_anew_or_go_on(tmp_path, logged):
    """From a file without them, and from one with them for other classes, what fits goes on."""
    full = trained_with_parts()
    start = copy.deepcopy(full.state_dict())
    load(full, official().state_dict, tmp_path)
    names = [name for name in start if name.startswith('bbox_head.training_queries.')]
    assert len(names) == 6
    assert all(torch.equal(full.state_dict()[name], start[name]) for name in names)
    assert any('missing: ' in line and 'for training only' in line for line in logged)
    other = trained_with_parts(NUM_CLASSES + 1)
    load(other, full.state_dict(), tmp_path)
    kept = {name for name in names if torch.equal(other.state_dict()[name], full.state_dict()[name])}
    assert set(names) - kept == {'bbox_head.training_queries.1.label_embed.weight'}
