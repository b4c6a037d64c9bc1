"""The work of ``mim run mmdet_detr NAME``; ``tools/NAME.py`` reads the arguments."""
