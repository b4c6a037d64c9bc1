from pathlib import Path

import mmdet_detr
from mmdet_detr.compat import MENDS

PACKAGE = Path(mmdet_detr.__file__).parent


def test_the_table_names_modules_that_exist_once_each():
    modules = [mend.module for mend in MENDS]
    assert len(set(modules)) == len(modules)
    missing = [module for module in modules if not (PACKAGE / f'{module.replace(".", "/")}.py').is_file()]
    assert not missing


def test_every_module_of_compat_is_in_the_table():
    files = {f'compat.{path.stem}' for path in (PACKAGE / 'compat').glob('*.py') if path.stem != '__init__'}
    assert files == {mend.module for mend in MENDS if mend.module.startswith('compat.')}


def test_every_entry_says_why_and_until_when():
    assert all(mend.why and mend.until for mend in MENDS)
