# The DETR of Hugging Face's transformers (pip install "transformers>=5"), with random weights: for the benchmark only.
_base_ = '../detr/detr_r50_8x2_150e_coco.py'
custom_imports = dict(imports=['mmdet_detr', 'mmdet_detr.speed.transformers_detr'], allow_failed_imports=False)

model = dict(
    _delete_=True,
    type='mmdet_detr.TransformersDETR',
    num_classes=80,
    data_preprocessor=_base_.model.data_preprocessor,
)
