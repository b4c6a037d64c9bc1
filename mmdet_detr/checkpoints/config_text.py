"""Read the config that mmengine writes into its checkpoints, without executing it."""

import ast
import contextlib
from typing import Any


def parse_config(text: str) -> dict[str, Any]:
    """Values of a dumped config: literals, lists, tuples and ``dict(...)``; other assignments are left out."""
    values = {}
    with contextlib.suppress(SyntaxError):
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                with contextlib.suppress(ValueError):
                    values[statement.targets[0].id] = _value(statement.value)
    return values


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        mappings = [_value(argument) for argument in node.args]  # mmengine writes keys that are no names as dict({...})
        return dict(*mappings, **{keyword.arg or '**': _value(keyword.value) for keyword in node.keywords})
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(key): _value(v) for key, v in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(element) for element in node.elts)
    return ast.literal_eval(node)
