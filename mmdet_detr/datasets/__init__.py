from .shortest_side_resize import ShortestSideResize

__all__ = ['ShortestSideResize']
