"""What a DETR looks at: arrays, pictures and a page."""

from .compute import ImageAttention, attend
from .portraits import Portraits, find_images, portray

__all__ = ['ImageAttention', 'Portraits', 'attend', 'find_images', 'portray']
