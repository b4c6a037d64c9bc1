"""Take the pictures of the page that docs/page.md shows, in a browser (``make test-page`` installs one).

It needs ``make demo`` and ``make demo-panoptic``.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

import mmdet_detr
from mmdet_detr.page.app import serve_page

FOLDER = Path(__file__).parent / 'page'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--runs', default=['work_dirs/demo', 'work_dirs/demo-panoptic'], nargs=2, help='boxes, and masks'
    )
    parser.add_argument('--example', type=int, default=4, help='number of the example')
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    detectors = {Path(run).name: mmdet_detr.load(run) for run in args.runs}
    first = dict(list(detectors.items())[:1])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        with serve_page(first) as address:
            page = browser.new_page(viewport={'width': 1280, 'height': 720})
            show(page, address, args.example)
            page.get_by_role('gridcell', name='2', exact=True).first.click()
            expect(page.locator('.block.caption')).to_contain_text('to find 2 ')
            take(page, 'one')
            context = browser.new_context(
                viewport={'width': 360, 'height': 740}, device_scale_factor=1.5, is_mobile=True
            )
            page = context.new_page()
            show(page, address, args.example)
            take(page, 'phone')
        with serve_page(detectors) as address:
            page = browser.new_page(viewport={'width': 1400, 'height': 720})
            show(page, address, args.example)
            page.get_by_label('panoptic map').check()
            take(page, 'two')
        browser.close()


def show(page: Page, address: str, example: int) -> None:
    page.goto(address)
    page.get_by_label(f'Thumbnail {example} of ').click()
    expect(page.locator('#status')).to_contain_text('pixels', timeout=60_000)


def take(page: Page, name: str) -> None:
    page.wait_for_timeout(1000)  # gradio fades what is new in
    page.screenshot(path=FOLDER / f'{name}.jpg', full_page=True, type='jpeg', quality=85)


if __name__ == '__main__':
    main()
