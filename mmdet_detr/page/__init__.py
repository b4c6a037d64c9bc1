"""A page in the browser on which detectors are tried; it needs gradio, the rest of this package does not."""

from .session import Findings, find, read

__all__ = ['Findings', 'find', 'read']
