"""The page of an evaluation, as HTML that needs nothing but the pictures beside it."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin-bottom: .3rem; } img { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .2rem .8rem .2rem 0; text-align: right; }
th { border-bottom: 2px solid #ccc; } td { border-bottom: 1px solid #eee; }
th:first-child, td:first-child, .text { text-align: left; } .note { color: #666; font-size: .9rem; }
.blue { color: #0077b3; font-weight: 600; } .red { color: #d43a0d; font-weight: 600; }
"""
# What to do about each kind of error.
ADVICE = {
    'confused': 'Look for these pairs in the confusion matrix. Check their labels, and add images of the rarer class.',
    'misplaced': 'Check how tightly the annotations are drawn. Train longer, or with larger images.',
    'both': 'These go away with the two kinds above; they are seldom worth work of their own.',
    'duplicate': 'Train a DETR longer. Lower the IoU threshold of the NMS of another detector.',
    'background': 'See first whether these are objects that nobody annotated. Add images of such background.',
    'missed': 'See whether they are small, hidden or rare. Use larger images, add such objects, or show lower scores.',
}
SHEET_NOTES = {'missed': 'the largest first', 'default': 'the surest first'}


def render(numbers: dict[str, Any], pictures: dict[str, str], sheets: dict[str, str]) -> str:
    """The page.

    Args:
        numbers: what evaluation.json has.
        pictures: names of the files beside the page, by what they show.
        sheets: the same of the pictures of errors, by the kind of the errors.
    """
    parts = [
        '<h1>What this detector can and cannot do</h1>',
        f'<p class="note">{escape(numbers["config"])}, weights {escape(numbers["checkpoint"])}</p>',
        *(f'<p>{text}</p>' for text in _glance(numbers)),
        '<h2>Average precision</h2>',
        _overall(numbers),
        '<p class="note">AP (COCO) is 1 for a perfect detector. It is the mean over ten IoUs from 0.50 to 0.95; AP50 '
        'and AP75 are at one. Small objects cover less than 32² pixels, large ones more than 96².</p>',
        _image(pictures, 'precision_recall', 'Precision over recall'),
        '<h2>Classes</h2>',
        _classes(numbers),
        '<p class="note">Each class has the score threshold that gives it the best F1, and precision and recall '
        f'there, at an IoU of {numbers["confusion"]["iou_threshold"]:g}.</p>',
        _image(pictures, 'class_curves', 'Precision over recall of each class'),
        '<h2>Score threshold</h2>',
        _image(pictures, 'thresholds', 'Precision, recall and F1 over the score threshold'),
        '<p class="note">Take a higher threshold where a false alarm costs more than an object that is missed, and a '
        'lower one otherwise.</p>',
        '<h2>Confusions</h2>',
        _image(pictures, 'confusion', 'Confusion matrix'),
        _pairs(numbers),
        '<h2>Errors</h2>',
        _errors(numbers),
        '<p class="note">The kinds are those of TIDE (Bolya et al., arXiv 2008.08115). The cost is the AP50 that the '
        'detector would gain if all errors of one kind were mended, at any score; the numbers are of errors from the '
        f'score {numbers["confusion"]["score_threshold"]:.2f} on.</p>',
        _image(pictures, 'costs', 'Cost of each kind of error'),
        '<p>In the pictures, <span class="blue">objects are blue</span>, the one that matters thick, and '
        '<span class="red">detections are red and dashed</span>; the better detection of a '
        'duplicate is thin.</p>'
        if sheets
        else '<p>No errors to show.</p>',
        *_sheets(numbers, sheets),
        '<h2>Speed</h2>',
        _speed(numbers),
        *_evaluator(numbers),
    ]
    return document('Evaluation of a detector', parts)


def document(title: str, parts: Iterable[str]) -> str:
    """A page of parts in HTML; empty ones are left out."""
    body = '\n'.join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f'<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    )


def _number(value: float | None, digits: int = 3) -> str:
    return '-' if value is None or value < 0 else f'{value:.{digits}f}'  # mmdet's -1 is for no object


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], texts: Sequence[int] = ()) -> str:
    """A table; ``texts`` are columns that are aligned to the left, beside the first."""

    def cell(kind: str, place: int, value: object) -> str:
        return f'<{kind}{" class=text" if place in texts else ""}>{escape(str(value))}</{kind}>'

    lines = [''.join(cell('th', place, head) for place, head in enumerate(heads))]
    lines += [''.join(cell('td', place, value) for place, value in enumerate(row)) for row in rows]
    return '<table>\n' + '\n'.join(f'<tr>{line}</tr>' for line in lines) + '\n</table>'


def _image(pictures: dict[str, str], name: str, text: str) -> str:
    return linked(pictures[name], text) if name in pictures else ''


def linked(file: str, text: str) -> str:
    """A picture that opens in its own size."""
    return f'<p><a href="{escape(file)}"><img src="{escape(file)}" alt="{escape(text)}"></a></p>'


def _glance(numbers: dict[str, Any]) -> Iterable[str]:
    best, count = numbers['best_f1'], f'{numbers["objects"]} objects in {numbers["images"]} images'
    if best is None:
        yield f'None of the {count} is found: no detection overlaps one of its class by an IoU of 0.5.'
    else:
        yield (
            f'Of {count}, it finds <b>{best["recall"]:.0%}</b>, and <b>{best["precision"]:.0%}</b> of its detections '
            f'are right, where those with a score from {best["threshold"]:.2f} on are shown.'
        )
    known = sorted((entry for entry in numbers['classes'] if entry['objects']), key=lambda entry: -entry['AP'])
    if len(known) > 1:
        first, last = ({**entry, 'name': escape(entry['name'])} for entry in (known[0], known[-1]))
        yield (
            f'Its best class is {first["name"]} (AP {first["AP"]:.3f}), its weakest {last["name"]} '
            f'(AP {last["AP"]:.3f}, {last["objects"]} objects).'
        )
    worst = max(numbers['errors'], key=lambda error: error['cost_ap50'])
    if worst['cost_ap50'] > 0:
        yield (
            f'The costliest errors are the {worst["kind"]} ({worst["meaning"]}): without them, AP50 would be higher by '
            f'{worst["cost_ap50"]:.3f}. {ADVICE[worst["kind"]]}'
        )
    yield f'It takes {numbers["speed"]["median_ms"]:.0f} ms an image.'


def _overall(numbers: dict[str, Any]) -> str:
    sizes = numbers['objects_by_size']
    heads = ['', 'AP', 'AP50', 'AP75', *(f'AP of {size} objects' for size in sizes)]
    values = [_number(numbers[key]) for key in ('AP', 'AP50', 'AP75', *(f'AP_{size}' for size in sizes))]
    of_masks = {key.partition('segm_mAP')[2]: value for key, value in numbers['evaluator'].items() if 'segm_mAP' in key}
    masks = [_number(of_masks.get(key)) for key in ('', '_50', '_75', '_s', '_m', '_l')]
    counts = ['objects', numbers['objects'], '', '', *sizes.values()]
    return _table(heads, [['boxes', *values], *([['masks', *masks]] if of_masks else []), counts])


def _classes(numbers: dict[str, Any]) -> str:
    rows = []
    for entry in sorted(numbers['classes'], key=lambda entry: 2 if entry['AP'] is None else entry['AP']):
        best = entry['best_f1'] or dict.fromkeys(('threshold', 'precision', 'recall', 'f1'))
        aps = [_number(entry[key]) for key in ('AP', 'AP50', 'AP75')]
        places = [_number(best[key], 2) for key in ('threshold', 'precision', 'recall', 'f1')]
        rows.append([entry['name'], entry['objects'], *aps, *places])
    return _table(('class', 'objects', 'AP', 'AP50', 'AP75', 'threshold', 'precision', 'recall', 'F1'), rows)


def _pairs(numbers: dict[str, Any]) -> str:
    pairs = numbers['confusion']['pairs']
    if not pairs:
        return '<p>No object is taken for one of another class.</p>'
    return _table(('true class', 'detected as', 'number'), ([*pair.values()] for pair in pairs), texts=[1])


def _errors(numbers: dict[str, Any]) -> str:
    rows = [
        [error['kind'], error['meaning'], error['number'], _number(error['cost_ap50']), ADVICE[error['kind']]]
        for error in numbers['errors']
    ]
    return _table(('kind', 'what it is', 'number', 'costs AP50', 'what to do'), rows, texts=[1, 4])


def _sheets(numbers: dict[str, Any], sheets: dict[str, str]) -> Iterable[str]:
    for error in numbers['errors']:
        kind = error['kind']
        if kind in sheets:
            order = SHEET_NOTES.get(kind, SHEET_NOTES['default'])
            yield f'<h3>{kind.capitalize()}: {error["meaning"]} ({error["number"]}, {order})</h3>'
            yield linked(sheets[kind], kind)


def _speed(numbers: dict[str, Any]) -> str:
    speed = numbers['speed']
    return (
        f'<p>{speed["median_ms"]:.1f} ms an image (median of {speed["images"]}, from {speed["fastest_ms"]:.1f} to '
        f'{speed["slowest_ms"]:.1f}), one image at a time: the network and its post-processing, without reading and '
        f'resizing the image. Measured on {escape(speed["machine"])}.</p>'
    )


def _evaluator(numbers: dict[str, Any]) -> Iterable[str]:
    if results := numbers['evaluator']:
        yield '<h2>The evaluator of the config</h2>'
        yield '<p class="note">What testing the run reports. It reads the annotation file itself.</p>'
        yield _table(
            ('result', 'value'), ([name, '-' if value is None else f'{value:.4g}'] for name, value in results.items())
        )
