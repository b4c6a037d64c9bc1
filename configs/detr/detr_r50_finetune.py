# Fine-tune the official R50 on your own COCO-format data. The class names come from the annotation file.
# DATA_ROOT=data/mine mim train mmdet_detr configs/detr/detr_r50_finetune.py --gpus 1 \
#     --cfg-options load_from=detr-r50-e632da11.pth
_base_ = ['./detr_r50_8x2_150e_coco.py', '../_base_/detr_fast.py']

data_root = '{{$DATA_ROOT:data/mine}}/'
train_json, val_json = '{{$TRAIN_JSON:train.json}}', '{{$VAL_JSON:val.json}}'
train_images, val_images = '{{$TRAIN_IMAGES:images/}}', '{{$VAL_IMAGES:images/}}'

# No import statement: in a virtual environment, mmengine 0.10.7 reads a config with one as its lazy kind.
json, pathlib = __import__('json'), __import__('pathlib')
train_names, val_names = (
    tuple(category['name'] for category in json.loads(pathlib.Path(data_root, file).read_text())['categories'])
    for file in (train_json, val_json)
)
if train_names != val_names:  # mmdet numbers the classes of each file in that file's order
    raise ValueError(
        f'{train_json} and {val_json} in {data_root} have to list the same categories in the same order, but have '
        f'{train_names} and {val_names}'
    )
metainfo = dict(classes=train_names)

model = dict(
    backbone=dict(init_cfg=None),  # load_from brings its weights
    bbox_head=dict(num_classes=len(train_names), **_base_.fast_head),
)
train_dataloader = dict(
    dataset=dict(data_root=data_root, metainfo=metainfo, ann_file=train_json, data_prefix=dict(img=train_images))
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, metainfo=metainfo, ann_file=val_json, data_prefix=dict(img=val_images))
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(ann_file=data_root + val_json)

max_epochs = 50
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[40], gamma=0.1),
]
auto_scale_lr = dict(enable=True, base_batch_size=16)  # learning rate: 1e-4 x images a step / 16
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='coco/bbox_mAP'))
