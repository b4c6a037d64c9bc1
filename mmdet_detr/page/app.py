"""The page itself, on gradio."""

import contextlib
import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # gradio reads them when it is imported
os.environ['HF_HUB_DISABLE_TELEMETRY'] = '1'

import cv2
import gradio as gr
import numpy as np
from starlette.middleware import Middleware

from ..errors import UserError, one_line
from ..inference import Detector, UnreadableImageError
from ..inference.sources import Images, find_input
from .session import LEAST, Findings, find, read

MAX_BYTES = 50 * 2**20  # of an uploaded file
KEPT = 3600  # seconds for which files and results of people who have left are kept
EXAMPLES = 8
WAITING = 50  # people in the queue, at most
HOME = '127.0.0.1'
HEADERS = ['#', 'class', 'score', 'x', 'y', 'w', 'h']
WIDTHS = ['10%', '21%', '19%', '13%', '13%', '12%', '12%']
DRAWN = [('detections', False), ('panoptic map', True)]
WELCOME = 'Drop, paste or photograph an image, or take an example.'
# Nothing of other addresses is loaded, whatever a part of gradio asks for; it writes scripts and styles into the page.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
CSS = """
.main.fillable.app { padding: clamp(12px, 2.5vw, 32px) !important; }
#examples .grid-wrap { max-height: none; min-height: 0; height: auto; padding: 0; }
#examples .grid-container { grid-template-columns: repeat(auto-fill, minmax(80px, 1fr)) !important; }
#examples button { min-width: 0; }
#status .prose { min-height: 1.5em; font-weight: 600; }
.caption { font-size: 0.95em; }
.caption p { margin: 0; }
"""
# Screen readers tell what is written into these regions.
LIVE = "() => document.querySelectorAll('#status, .caption').forEach(e => e.setAttribute('aria-live', 'polite'))"

PROGRESS = gr.Progress()

Updates = dict[Any, Any]


class Panel:
    """What the page has of one detector.

    Args:
        name: of the detector, as its heading.
        detector: it is run by :meth:`run` only.
    """

    def __init__(self, name: str, detector: Detector) -> None:
        self.name = name
        self.detector = detector
        self.findings = gr.State(None, time_to_live=KEPT)
        gr.Markdown(f'## {name}\nClick a detection, or a row of the table, to see where its query looked.')
        with gr.Row():
            with gr.Column(min_width=300):
                self.picture = gr.Image(label='Detections', show_label=False, interactive=False, buttons=['fullscreen'])
                self.drawn = gr.Radio(DRAWN, value=False, label='Drawn', visible=False)
                self.chosen = gr.Dropdown([], label='Chosen detection', interactive=True)
                self.table = gr.Dataframe(
                    headers=HEADERS,
                    column_widths=WIDTHS,
                    label='Detections: left, top, width and height in pixels',
                    interactive=False,
                    max_height=240,
                    buttons=[],
                )
                with gr.Row():
                    self.as_json = gr.DownloadButton('Download JSON', interactive=False, size='sm', min_width=120)
                    self.as_picture = gr.DownloadButton('Download picture', interactive=False, size='sm', min_width=120)
            with gr.Column(min_width=300):
                self.looked = gr.Image(
                    label='Where the query looked',
                    show_label=False,
                    interactive=False,
                    buttons=['download', 'fullscreen'],
                )
                self.caption = gr.Markdown('Where the query of the chosen detection looked.', elem_classes='caption')
                with gr.Row():
                    self.layer = gr.Dropdown([], label='Decoder layer', interactive=True, min_width=120)
                    self.head = gr.Dropdown([], label='Head', interactive=True, min_width=120)

    @property
    def outputs(self) -> list[Any]:
        """Components that change with an image or a threshold."""
        return [
            *(self.findings, self.picture, self.drawn, self.chosen, self.table, self.as_json, self.as_picture),
            *(self.layer, self.head, self.looked, self.caption),
        ]

    def listen(self, threshold: gr.Slider) -> None:
        """Answer clicks and choices; none of them runs the detector."""
        quick: dict[str, Any] = {'show_progress': 'hidden', 'api_visibility': 'private', 'concurrency_limit': None}
        self.picture.select(self._at, [self.findings, threshold], self.chosen, **quick)
        self.table.select(self._row, None, self.chosen, **quick)
        inputs = [self.findings, threshold, self.chosen, self.drawn]
        gr.on(
            [self.chosen.change, self.drawn.change],
            self.draw,
            inputs,
            [self.picture, self.as_picture],
            trigger_mode='always_last',
            **quick,
        )
        gr.on(
            [self.chosen.change, self.layer.change, self.head.change],
            self.look,
            [self.findings, self.chosen, self.layer, self.head],
            [self.looked, self.caption],
            trigger_mode='always_last',
            **quick,
        )

    def run(self, image: np.ndarray, name: str, score_thr: float) -> Updates:
        """Run the detector, and show everything of a new image; the surest detection is chosen."""
        findings = find(self.detector, image, name)
        attention = findings.attention
        layers = range(1, attention.num_decoder_layers + 1) if attention else ()
        heads = [('mean', 0), *((str(h), h) for h in range(1, attention.num_heads + 1))] if attention else []
        chosen = 0 if findings.count(score_thr) else None
        return {
            self.findings: findings,
            self.drawn: gr.update(visible=findings.shown.panoptic is not None, value=False),
            self.layer: gr.update(choices=list(layers), value=len(layers) or None, interactive=bool(layers)),
            self.head: gr.update(choices=heads, value=0 if heads else None, interactive=bool(heads)),
            **self.show(findings, score_thr, chosen, False),
            **self.look(findings, chosen, None, None),
        }

    def clear(self) -> Updates:
        """Nothing of an image that is gone."""
        files = {button: gr.update(value=None, interactive=False) for button in (self.as_json, self.as_picture)}
        choices = {part: gr.update(choices=[], value=None) for part in (self.chosen, self.layer, self.head)}
        empty = dict.fromkeys((self.findings, self.picture, self.table, self.looked))
        return {**empty, **files, **choices, self.drawn: gr.update(visible=False), self.caption: ''}

    def show(self, findings: Findings | None, score_thr: float, chosen: int | None, panoptic: bool) -> Updates:
        """Picture, table and files of the detections above a threshold."""
        if findings is None:
            return {self.picture: gr.skip()}
        count = findings.count(score_thr)
        if chosen is not None and chosen >= count:
            chosen = None
        data = findings.json(count).encode()
        return {
            **self.draw(findings, score_thr, chosen, panoptic),
            self.chosen: gr.update(choices=[(findings.title(i), i) for i in range(count)], value=chosen),
            self.table: findings.rows(count),
            self.as_json: gr.update(value=self._file(data, findings.name, 'json'), interactive=True),
        }

    def draw(self, findings: Findings | None, score_thr: float, chosen: int | None, panoptic: bool) -> Updates:
        if findings is None:
            return {self.picture: gr.skip()}
        count = findings.count(score_thr)
        picture = findings.picture(count, chosen if chosen is not None and chosen < count else None, panoptic)
        path = self._file(_png(picture), findings.name, 'png')
        return {
            self.picture: gr.update(value=path, alt_text=findings.summary(count)),
            self.as_picture: gr.update(value=path, interactive=True),
        }

    def look(self, findings: Findings | None, chosen: int | None, layer: int | None, head: int | None) -> Updates:
        if findings is None or chosen is None or findings.attention is None:
            reason = '' if findings is None else findings.reason or 'Choose a detection to see where its query looked.'
            return {self.looked: None, self.caption: reason}
        picture, caption = findings.look(chosen, layer, head or None)
        path = self._file(_png(picture), f'{findings.name}_attention', 'png')
        return {self.looked: gr.update(value=path, alt_text=caption), self.caption: caption}

    def _at(self, findings: Findings | None, score_thr: float, event: gr.SelectData) -> Any:
        if findings is None:
            return gr.skip()
        x, y = event.index
        found = findings.at(x, y, findings.count(score_thr))
        return gr.skip() if found is None else found

    def _row(self, event: gr.SelectData) -> int:
        return int(event.row_value[0]) - 1  # people can sort the table

    def _file(self, data: bytes, image: str, suffix: str) -> str:
        name = f'{Path(image).stem}_{self.name.replace("/", "_")}.{suffix}'
        return _kept(data, name, self.picture)


def build_page(detectors: Mapping[str, Detector], score_thr: float = 0.5) -> gr.Blocks:
    """Build the page, to be launched by :func:`serve_page` or to be part of another page.

    Args:
        detectors: one or more by their names; each finds objects in the same image, and they stand side by side.
        score_thr: where the slider stands at first.
    """
    with gr.Blocks(title='Find objects', analytics_enabled=False, fill_width=True, delete_cache=(KEPT, KEPT)) as page:
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                gr.Markdown('# Find objects')
                photo = gr.Image(
                    label='Image',
                    type='filepath',
                    sources=['upload', 'clipboard', 'webcam'],
                    buttons=['fullscreen'],
                    height=320,
                )
                status = gr.HTML(WELCOME, elem_id='status')
                threshold = gr.Slider(
                    LEAST, 1, score_thr, step=0.01, label='Threshold', info='Detections with a lower score are hidden.'
                )
                if examples := example_images(detectors):
                    gr.Markdown('### Examples')
                    shown = gr.Gallery(
                        examples,
                        label='Examples',
                        show_label=False,
                        columns=3,
                        allow_preview=False,
                        interactive=False,
                        buttons=[],
                        elem_id='examples',
                    )
            panels = []
            for name, detector in detectors.items():
                with gr.Column(scale=5, min_width=300):
                    panels.append(Panel(name, detector))
        for panel in panels:
            panel.listen(threshold)
        _listen(photo, status, threshold, panels)
        if examples:

            def take(event: gr.SelectData) -> str:
                path = Path(examples[event.index])
                return _kept(path.read_bytes(), path.name, photo)

            shown.select(take, None, photo, show_progress='hidden', api_visibility='private')
    page.queue(max_size=WAITING)
    return page


def _listen(photo: gr.Image, status: gr.HTML, threshold: gr.Slider, panels: list[Panel]) -> None:
    """Run the detectors on a new image, and redraw for a new threshold."""

    def cleared() -> Updates:
        return {part: update for panel in panels for part, update in panel.clear().items()}

    def run(upload: dict[str, Any] | None, score_thr: float, progress: gr.Progress = PROGRESS) -> Iterator[Updates]:
        if upload is None:
            yield {status: gr.skip()}
            return
        try:
            file = Path(upload['path'])
            image, note = read(panels[0].detector, file)
            notes = [note or f'{file.name}: {image.shape[1]} x {image.shape[0]} pixels']
            for number, panel in enumerate(panels):
                progress((number, len(panels)), desc=f'running {panel.name}', unit='detectors')
                updates = panel.run(image, file.name, score_thr)
                notes.append(updates[panel.findings].note)
                yield updates
        except (UnreadableImageError, RuntimeError) as error:  # a GPU can be full
            yield {status: escape(one_line(error)), photo: None, **cleared()}
            return
        yield {status: escape(', '.join(note for note in dict.fromkeys(notes) if note))}

    outputs = [output for panel in panels for output in panel.outputs]
    photo.change(
        run,
        [photo, threshold],
        [status, photo, *outputs],
        preprocess=False,  # gradio would decode the file, whatever its size, and write it anew
        concurrency_limit=1,
        api_visibility='private',
        show_progress_on=[panel.picture for panel in panels],
    )

    photo.clear(lambda: {status: WELCOME, **cleared()}, None, [status, *outputs], api_visibility='private')

    def show(score_thr: float, *values: Any) -> Updates:
        updates: Updates = {}
        for index, panel in enumerate(panels):
            updates |= panel.show(values[3 * index], score_thr, *values[3 * index + 1 : 3 * index + 3])
        return updates

    threshold.change(
        show,
        [threshold, *(part for panel in panels for part in (panel.findings, panel.chosen, panel.drawn))],
        outputs,
        trigger_mode='always_last',
        concurrency_limit=None,
        show_progress='hidden',
        api_visibility='private',
    )


def _kept(data: bytes, name: str, component: Any) -> str:
    """A file among those that a component may serve. Equal files are one, and it is never written while it is sent."""
    path = Path(component.GRADIO_CACHE, hashlib.sha256(data).hexdigest(), name)
    if path.exists():
        path.touch()  # gradio deletes the old ones
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
    return str(path)


def _png(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) RGB as a file."""
    return cv2.imencode('.png', picture[..., ::-1])[1].tobytes()


def example_images(detectors: Mapping[str, Detector]) -> list[str]:
    """The first images in the folder of the first detector's data set; none where it is not here."""
    for detector in detectors.values():
        dataset = detector.model.cfg.test_dataloader.get('dataset') or {}
        while 'data_prefix' not in dataset and ('dataset' in dataset or 'datasets' in dataset):
            dataset = dataset.get('dataset') or dataset['datasets'][0]
        prefix = (dataset.get('data_prefix') or {}).get('img')
        folder = Path(dataset.get('data_root') or '', prefix or '')
        if prefix is not None and folder.is_dir():
            with contextlib.suppress(UserError):  # of a folder without images
                found = find_input(str(folder))
                assert isinstance(found, Images)
                return found.paths[:EXAMPLES]
    return []


@contextlib.contextmanager
def serve_page(
    detectors: Mapping[str, Detector], host: str = HOME, port: int | None = None, score_thr: float = 0.5
) -> Iterator[str]:
    """Serve the page as long as the context lasts, and delete then what people have uploaded.

    A process serves one page at a time, because gradio has one folder for uploads.

    Args:
        detectors: as for :func:`build_page`.
        host: address to listen on: other machines see the page at ``0.0.0.0`` only.
        port: by default, the first free one from 7860 on.
        score_thr: where the slider stands at first.

    Yields:
        The address of the page.

    Raises:
        UserError: the address is not of this machine, or the port is taken.
    """
    require_free(host, port)
    with tempfile.TemporaryDirectory(prefix='mmdet_detr_page_') as folder:
        before = os.environ.get('GRADIO_TEMP_DIR')
        os.environ['GRADIO_TEMP_DIR'] = folder
        page = build_page(detectors, score_thr)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                inbrowser=False,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                ssr_mode=False,
                pwa=False,
                run_history=False,
                footer_links=[],
                max_file_size=MAX_BYTES,
                app_kwargs={'middleware': [Middleware(OwnAddressOnly)]},
                theme=theme(),
                css=CSS,
                js=LIVE,
            )
            yield address
        finally:
            page.close(verbose=False)
            del os.environ['GRADIO_TEMP_DIR']
            if before is not None:
                os.environ['GRADIO_TEMP_DIR'] = before


def theme() -> gr.themes.Default:
    """Fonts of the reader's own machine, and greys that can be read on white."""
    fonts = {'font': ['system-ui', 'sans-serif'], 'font_mono': ['ui-monospace', 'monospace']}
    return gr.themes.Default(primary_hue='blue', **fonts).set(
        body_text_color_subdued='*neutral_600',
        block_info_text_color='*neutral_600',
        block_label_text_color='*neutral_700',
        block_title_text_color='*neutral_800',
    )


def require_free(host: str, port: int | None) -> None:
    """Raise a UserError where a server cannot listen at an address; port None is any free one."""
    try:
        socket.create_server((host, port or 0), family=socket.AF_INET6 if ':' in host else socket.AF_INET).close()
    except OSError as error:
        if port is None or isinstance(error, socket.gaierror):
            raise UserError(f'{host} is no address of this machine: {error.strerror}') from error
        raise UserError(
            f'port {port} of {host} cannot be used ({os.strerror(error.errno or 0)}): name another by --port'
        ) from error


class OwnAddressOnly:
    """Tells browsers to load nothing of any other address."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [*message['headers'], (b'content-security-policy', POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy if scope['type'] == 'http' else send)
