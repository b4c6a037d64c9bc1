"""The docstring of compat is a table: modules that mend other packages, why, and until when."""

import re
from pathlib import Path

import mmdet_detr
from mmdet_detr import compat

PACKAGE = Path(mmdet_detr.__file__).parent
ENTRIES = re.split(r'\n(?=\S)', compat.__doc__.strip().partition('\n\n')[2])
MODULES = [entry.partition(':')[0] for entry in ENTRIES]


def test_the_table_names_modules_that_exist_once_each():
    assert len(set(MODULES)) == len(MODULES)
    missing = [module for module in MODULES if not (PACKAGE / f'{module.replace(".", "/")}.py').is_file()]
    assert not missing


def test_every_module_of_compat_is_in_the_table():
    files = {f'compat.{path.stem}' for path in (PACKAGE / 'compat').glob('*.py') if path.stem != '__init__'}
    assert files == {module for module in MODULES if module.startswith('compat.')}


def test_every_entry_says_why_and_until_when():
    wrong = [entry for entry in ENTRIES if not re.fullmatch(r'[\w.]+: .+\.\n    Until .+\.', entry, re.DOTALL)]
    assert not wrong
