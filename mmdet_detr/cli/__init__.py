"""The work of ``mim run mmdet_detr NAME``; ``tools/NAME.py`` reads the arguments."""

from ..compat.terminal import quiet_tool

quiet_tool()  # before what these modules import, which prints
