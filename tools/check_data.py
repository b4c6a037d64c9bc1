"""Check the data that a config would read, before a long training does.

Reads the annotation files of all its data loaders and looks at every image: missing, cut off, of another size than the
annotations say, in training and validation at once; wrong ids, categories and boxes; classes that do not fit; more
objects than queries. Exit code 1 with errors, 0 with warnings only, 2 where nothing could be checked.
"""

import argparse
from pathlib import Path

from _arguments import KeyValue

if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='check_data', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=Path)
    parser.add_argument('--decode', action='store_true', help='decode every image, on all cores')
    parser.add_argument('--out', type=Path, default=Path('data_check'), help='folder to write (default: data_check)')
    parser.add_argument('--clean', type=Path, help='folder for annotation files without what cannot be used')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValue, help='overrides, as in training')
    args = parser.parse_args()
    from mmdet_detr.cli.check_data import main  # takes seconds, --help does not wait for it

    main(args)
