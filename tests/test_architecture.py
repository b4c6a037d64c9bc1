"""The folders of the package import each other in one direction, as docs/architecture.md says."""

import ast
from graphlib import TopologicalSorter

from helpers import ROOT

PACKAGE = ROOT / 'mmdet_detr'


def folders_that(path) -> set[str]:
    """Folders and files at the top of the package that a file imports."""
    found = set()
    parts = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = [*parts[: len(parts) - node.level], *(node.module or '').split('.')]
            found.add(target[0])
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmdet_detr.'):
            found.add(node.module.split('.')[1])
    return found - {'', parts[0]}


def test_imports_have_one_direction():
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob('*.py'):
        folder = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
        if folder != '__init__':
            graph.setdefault(folder, set()).update(folders_that(path))
    order = list(TopologicalSorter(graph).static_order())  # It raises a CycleError with the folders of a circle.
    assert order.index('checkpoints') < order.index('models') < order.index('engine') < order.index('cli')
    assert order.index('datasets') < order.index('engine')
