"""The page in Chromium: what people do, and that nothing leaves this machine. ``make test-page`` installs both."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from bad_files import write_bad_files
from detectors import CLASSES

from mmdet_detr.inference import Detector
from mmdet_detr.inference.draw import Painter

pytest.importorskip('gradio', reason='the page needs gradio: make test-page')
sync_api = pytest.importorskip('playwright.sync_api', reason='needs playwright: make test-page')
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
if CHROMIUM is None:
    pytest.skip('needs a browser, chromium: make test-page', allow_module_level=True)

from mmdet_detr.page.app import MAX_BYTES, serve_page  # noqa: E402  (needs gradio)

sync_api.expect.set_options(timeout=30_000)
CAMERA = ['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream']
SLOW = 1.5  # seconds
CONTRAST = 4.5  # WCAG 2.2, level AA, of text
# The least contrast of the texts that can be seen, and the text that has it.
LEAST_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  let least = [99, ''];
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join('');
    if (!text || !e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}) || e.closest(':disabled')) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(e).color)), luminance(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, text];
  }
  return least;
}"""


class Counted:
    """A detector that counts how often it runs, and can be slow."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.runs = 0
        self.seconds = 0.0
        self.error = ''

    def __getattr__(self, name: str) -> object:
        return getattr(self.detector, name)

    def __call__(self, *arguments: object) -> object:
        self.runs += 1
        if self.error:
            raise RuntimeError(self.error)
        time.sleep(self.seconds)
        return self.detector(*arguments)


class Visit:
    """What a person does and sees, in the words of a screen reader where there are any."""

    def __init__(self, page) -> None:
        self.page = page

    def upload(self, path: Path) -> None:
        self.page.set_input_files('input[type=file]', path)

    def status(self, text: str) -> str:
        """The line on the page, once it has a text."""
        line = self.page.locator('#status')
        sync_api.expect(line).to_contain_text(text)
        return line.inner_text()

    def see(self, image: str, number: int = 0) -> str:
        """What the picture of a detector is said to show, once it is that of an image."""
        picture = self.page.locator(f'img[alt^="{image}: "]').nth(number)
        sync_api.expect(picture).to_be_visible()
        return picture.get_attribute('alt')

    def see_next(self, image: str, before: str) -> str:
        """The same, once it is another."""
        sync_api.expect(self.page.locator(f'img[alt="{before}"]')).to_have_count(0)
        return self.see(image)

    def caption(self, text: str) -> str:
        line = self.page.locator('.block.caption').first
        sync_api.expect(line).to_contain_text(text)
        return line.inner_text()

    def threshold(self, value: str) -> None:
        self.page.get_by_role('slider').fill(value)

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_label(label).first.click()
        self.page.get_by_role('option', name=option, exact=True).click()
        sync_api.expect(self.page.get_by_role('option')).to_have_count(0)  # the list of choices fades out


@pytest.fixture(scope='module')
def counted(detector) -> Counted:
    return Counted(detector)


@pytest.fixture(scope='module')
def photos(tmp_path_factory) -> Path:
    """Images of 240 x 320 pixels."""
    folder = tmp_path_factory.mktemp('photos')
    generator = np.random.default_rng(1)
    for name in ('first', 'second', 'third'):
        small = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{name}.png'), cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture(scope='module')
def address(counted, photos) -> Iterator[str]:
    config = counted.detector.model.cfg.test_dataloader.dataset
    config.update(data_root=str(photos.parent), data_prefix={'img': photos.name})
    with serve_page({'run': counted}, score_thr=0.3) as found:
        yield found


@pytest.fixture(scope='module')
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', *CAMERA])
        yield found
        found.close()


@contextlib.contextmanager
def visiting(browser, address: str, tried: tuple[str, ...] = (), **options: object) -> Iterator[Visit]:
    """A person of their own. Errors in scripts fail, and so do requests to others."""
    context = browser.new_context(viewport={'width': 1280, 'height': 900}, **options)
    page = context.new_page()
    page.set_default_timeout(30_000)
    errors: list[str] = []
    requests: list[str] = []
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.on('request', lambda request: requests.append(request.url))
    page.goto(address)
    page.wait_for_selector('#status')
    try:
        yield Visit(page)
    finally:
        others = [url for url in requests if not url.startswith((address, 'data:', 'blob:'))]
        context.close()
    assert not errors
    assert requests
    assert others == list(tried)


@pytest.fixture
def visit(browser, address) -> Iterator[Visit]:
    with visiting(browser, address) as person:
        yield person


def sentence(detector: Detector, image: Path, score_thr: float) -> str:
    result = detector(image, score_thr)
    found = (f'{name} {score:.2f}' for name, score in zip(result.names, result.scores, strict=True))
    return f'{image.name}: {", ".join(found) or "nothing found"}'


def test_upload_threshold_and_click(visit, counted, detector, photos, tmp_path):
    before = counted.runs
    visit.upload(photos / 'first.png')
    visit.status('first.png: 320 x 240 pixels')
    visit.caption('to find 1 ')
    said = visit.see('first.png')
    assert said == sentence(detector, photos / 'first.png', 0.3)
    for value in ('0.6', '0.2', '0.95'):
        visit.threshold(value)
        said = visit.see_next('first.png', said)
        assert said == sentence(detector, photos / 'first.png', float(value))
    visit.threshold('0.3')
    visit.see_next('first.png', said)

    result = detector(photos / 'first.png', 0.3)
    assert len(result) > 2
    visit.caption('Choose a detection')  # the one that was chosen was hidden
    row = visit.page.get_by_role('gridcell', name='2', exact=True).first
    row.click()
    assert f'2 {result.names[1]} {result.scores[1]:.2f}' in visit.caption('to find 2 ')
    assert visit.page.get_by_label('Chosen detection').input_value().startswith('2 ')

    left, top, right, bottom = result.boxes.T
    index = int(((right - left) * (bottom - top)).argmin())  # no smaller box can be in front of it
    picture = visit.page.locator('img[alt^="first.png: "]').first
    width = picture.bounding_box()['width'] / 320
    x, y = float(left[index] + right[index]) / 2 * width, float(top[index] + bottom[index]) / 2 * width
    picture.click(position={'x': x, 'y': y})
    visit.caption(f'to find {index + 1} {result.names[index]}')

    visit.choose('Decoder layer', '1')
    visit.caption('decoder layer 1 of 3, the mean of 4 heads')
    visit.choose('Head', '2')
    visit.caption('decoder layer 1 of 3, head 2')

    with visit.page.expect_download() as download:
        visit.page.get_by_role('button', name='Download JSON').click()
    assert download.value.suggested_filename == 'first_run.json'
    entries = json.loads(Path(download.value.path()).read_text())
    assert [entry['category_name'] for entry in entries] == result.names
    with visit.page.expect_download() as download:
        visit.page.get_by_role('button', name='Download picture').click()
    assert download.value.suggested_filename == 'first_run.png'
    saved = cv2.imread(download.value.path())
    drawn = Painter(CLASSES, detector.palette).draw(cv2.imread(str(photos / 'first.png')), result)
    assert saved.shape == drawn.shape
    assert (saved == drawn).mean() > 0.9  # but for the frame of the chosen one
    assert counted.runs == before + 1


def test_examples_are_those_of_the_data_set(visit, detector, photos):
    thumbnails = visit.page.get_by_role('button', name='Thumbnail')
    sync_api.expect(thumbnails).to_have_count(3)
    thumbnails.nth(1).click()
    assert visit.see('second.png') == sentence(detector, photos / 'second.png', 0.3)
    visit.page.get_by_label('Remove Image').click()
    visit.status('Drop, paste or photograph')
    sync_api.expect(visit.page.locator('img[alt^="second.png"]')).to_have_count(0)


def test_a_photograph_from_the_camera(visit):
    visit.page.get_by_label('Capture from camera').click()
    visit.page.get_by_role('button', name='Click to Access Webcam').click()
    visit.page.wait_for_function("(v => v && v.readyState > 1 && v.videoWidth > 0)(document.querySelector('video'))")
    visit.page.get_by_role('button', name='capture photo').click()
    visit.status('pixels')
    sync_api.expect(visit.page.locator('img[alt*=": "]').first).to_be_visible()


def test_what_fails_is_one_line(visit, counted, detector, photos, tmp_path):
    for name, reason in write_bad_files(tmp_path).items():
        visit.upload(tmp_path / name)
        line = visit.status(f'{name}: ')
        assert reason in line
        assert '\n' not in line.strip()
    (tmp_path / 'notes.txt').write_text('no picture')
    visit.upload(tmp_path / 'notes.txt')
    sync_api.expect(visit.page.get_by_text('Invalid file type: notes.txt')).to_be_visible()
    with (tmp_path / 'heavy.png').open('wb') as file:
        file.truncate(MAX_BYTES + 1)
    visit.upload(tmp_path / 'heavy.png')
    sync_api.expect(visit.page.get_by_text('exceed the maximum allowed size of 50.0 Mb')).to_be_visible()
    counted.error = 'CUDA out of memory.\nTried <much>'
    visit.upload(photos / 'first.png')
    assert visit.status('memory').strip() == 'CUDA out of memory. Tried <much>'
    counted.error = ''
    visit.upload(photos / 'third.png')
    assert visit.see('third.png') == sentence(detector, photos / 'third.png', 0.3)


def test_two_people_and_a_slow_model(browser, address, counted, detector, photos):
    with visiting(browser, address) as one, visiting(browser, address) as other:
        counted.seconds = SLOW
        try:
            one.upload(photos / 'first.png')
            other.upload(photos / 'second.png')
            sync_api.expect(one.page.get_by_text('running run').first).to_be_visible()
            saids = one.see('first.png'), other.see('second.png')
        finally:
            counted.seconds = 0.0
        assert saids == tuple(sentence(detector, photos / name, 0.3) for name in ('first.png', 'second.png'))
        one.threshold('0.6')
        assert one.see_next('first.png', saids[0]) == sentence(detector, photos / 'first.png', 0.6)
        assert other.see('second.png') == saids[1]


def test_without_a_mouse(visit, photos):
    visit.upload(photos / 'first.png')
    said = visit.see('first.png')
    names, page = [], visit.page
    for _ in range(40):
        page.keyboard.press('Tab')
        name = page.evaluate(
            "() => { const e = document.activeElement; return e.ariaLabel || e.innerText || e.querySelector('img')?.alt"
            " || e.querySelector('[aria-label]')?.ariaLabel || e.tagName }"
        )
        if name == names[:1]:
            break
        names.append(name)
    order = ['Upload file', 'range slider for Threshold', 'Thumbnail 1 of 3', said, 'Chosen detection']
    order += ['Download JSON', 'Decoder layer', 'Head']
    places = [names.index(name) for name in order]
    assert places == sorted(places)
    page.get_by_label('Chosen detection').focus()
    page.keyboard.press('ArrowDown')
    page.keyboard.press('Enter')
    visit.caption('to find 2 ')
    page.get_by_role('slider').focus()
    page.keyboard.press('ArrowRight')
    assert page.get_by_role('slider').input_value() == '0.31'
    assert page.locator('#status').get_attribute('aria-live') == 'polite'
    unnamed = [
        line for line in page.locator('body').aria_snapshot().splitlines() if line.strip() in ('- button', '- link')
    ]
    assert not unnamed


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_texts_can_be_read(browser, address, photos, scheme):
    with visiting(browser, address, color_scheme=scheme) as person:
        person.upload(photos / 'first.png')
        person.caption('to find 1 ')
        ratio, text = person.page.evaluate(LEAST_CONTRAST)
        assert ratio >= CONTRAST, text


def test_on_a_phone(browser, address, photos, tmp_path):
    options = {'device_scale_factor': 2, 'is_mobile': True, 'has_touch': True}
    with visiting(browser, address, **options) as person:
        person.page.set_viewport_size({'width': 360, 'height': 740})
        person.upload(photos / 'first.png')
        said = person.see('first.png')
        picture = person.page.locator('img[alt^="first.png: "]').first
        assert 300 <= picture.bounding_box()['width'] <= 360
        assert person.page.evaluate('document.documentElement.scrollWidth') <= 360
        person.threshold('0.6')
        said = person.see_next('first.png', said)
        picture.tap(position={'x': 5, 'y': 5})
        person.page.screenshot(path=tmp_path / 'phone.png', full_page=True)


def test_several_detectors_and_a_map(browser, detector, panoptic_detector, photos, tmp_path):
    with (
        serve_page({'boxes': detector, 'masks': panoptic_detector}, score_thr=0.3) as address,
        visiting(browser, address) as person,
    ):
        person.upload(photos / 'first.png')
        person.status('first.png: 320 x 240 pixels')
        assert person.see('first.png', 0) == sentence(detector, photos / 'first.png', 0.3)
        assert person.see('first.png', 1) == sentence(panoptic_detector, photos / 'first.png', 0.3)
        picture = person.page.locator('img[alt^="first.png: "]').nth(1)
        before = picture.evaluate('e => e.naturalWidth')
        person.page.get_by_label('panoptic map').check()
        person.page.wait_for_function(
            f'document.querySelectorAll(\'img[alt^="first.png: "]\')[1].naturalWidth > {before}'  # it has a legend
        )
        person.page.screenshot(path=tmp_path / 'two.png', full_page=True)


def test_browsers_are_told_to_load_nothing_of_others(browser, address):
    """And requests to others would be seen by the tests above."""
    other = 'http://127.0.0.2:9/x.js'
    with visiting(browser, address, (other,)) as person:
        blocked = person.page.evaluate(
            'address => new Promise(done => {'
            " document.addEventListener('securitypolicyviolation', event => done(event.blockedURI));"
            " const script = document.createElement('script'); script.src = address; document.head.append(script) })",
            other,
        )
    assert blocked == other
