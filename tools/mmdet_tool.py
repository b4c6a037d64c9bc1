"""Run a tool that mmdet brings along, such as confusion_matrix, with mmdet_detr made known to it first.

So it reads configs of mmdet_detr, and needs no compiled operators. Without NAME, the tools are listed. What follows
NAME are arguments of the tool: `mmdet_tool confusion_matrix --help` shows its own.
"""

import argparse

if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='mmdet_tool', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', nargs='?', metavar='NAME', help="name of a script in mmdet's tools, without .py")
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='its arguments')
    args = parser.parse_args()
    from mmdet_detr.cli.mmdet_tool import main  # takes seconds, --help does not wait for it

    main(args)
