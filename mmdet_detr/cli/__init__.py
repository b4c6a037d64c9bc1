"""What stands behind ``mim run mmdet_detr NAME``."""
