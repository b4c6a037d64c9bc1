"""Write a trained DETR into a file for other runtimes: ONNX, OpenVINO, torch.export or TorchScript.

Padded batches are right in all of them. The file is compared with the model before it takes its name. Beside an ONNX or
OpenVINO file comes detr_runtime.py, which detects with it without PyTorch.
"""

import argparse
from pathlib import Path


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


positive.__name__ = 'number of at least 1'  # argparse names the type by it in its errors


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='export', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', metavar='CONFIG_OR_RUN', type=Path, help='a config, or the folder of a run')
    parser.add_argument('checkpoint', nargs='?', help='weights; by default the best or last ones of the run')
    parser.add_argument('out', metavar='OUT', type=Path, help='file to write, such as detr.onnx or detr.xml')
    formats = ('onnx', 'openvino', 'pt2', 'torchscript')
    parser.add_argument('--to', choices=formats, help='the format (default: by the name: .onnx, .xml, .pt2, .pt)')
    parser.add_argument('--int8', action='store_true', help='convolutions in int8 (onnx, openvino); needs --images')
    parser.add_argument('--images', type=Path, metavar='FOLDER', help='images like those to come, to scale int8 by')
    parser.add_argument('--bf16', action='store_true', help='compute in bfloat16 (openvino, pt2, torchscript)')
    parser.add_argument('--raw', action='store_true', help='logits and normalised boxes instead of detections')
    parser.add_argument('--uint8', action='store_true', help='take pixels of 0 to 255, and normalise inside')
    parser.add_argument('--masks', type=positive, metavar='N', help='keep the N best detections only (default: all)')
    parser.add_argument('--size', type=positive, nargs=2, metavar=('H', 'W'), help='fix the size (default: any)')
    parser.add_argument('--batch', type=positive, help='fix the number of images (default: any)')
    parser.add_argument('--opset', type=positive, default=17, help='of ONNX (default: 17)')
    parser.add_argument('--no-check', action='store_true', help='do not compare the file with the model')
    parser.add_argument('--no-ap', action='store_true', help='do not measure AP of --bf16 and --int8')
    parser.add_argument('--force', action='store_true', help='overwrite files')
    args = parser.parse_args()
    from mmdet_detr.cli.export import main  # takes seconds, --help does not wait for it

    main(args)
