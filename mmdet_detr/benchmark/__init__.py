"""What ``mim run mmdet_detr benchmark`` measures, and how."""
