"""Inject the faults that a training run has to survive, and count what was lost.

    python benchmarks/reliability.py [--kills 40] [--minutes 60] [--out benchmarks/results]

Runs the tests that inject faults: the loaders read damaged files for so many minutes while one run is killed so many
times, then the other tests run as in the test suite. Writes reliability.json and reliability.md. The exit code is 1 if
a fault was not survived.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from xml.etree import ElementTree

from rich.progress import track

from mmdet_detr.reports.speed import table
from mmdet_detr.speed.machine import machine

ROOT = Path(__file__).parents[1]
KILLED = 'the process is killed (SIGKILL)'
FUZZED = 'damaged files'
JOBS = 2  # tests that run at the same time
# Each row has a fault, the tests that inject it, and what they compare.
FAULTS = (
    (KILLED, 'tests/test_crash.py', 'iterations of the last checkpoint; weights at the end, bit for bit'),
    ('the disk is full', 'tests/engine/test_atomic_checkpoint_hook.py -k disk', 'the checkpoint before'),
    (
        'the last checkpoint is missing or cut off',
        'tests/compat/test_latest_checkpoint.py',
        'which one the run goes on from',
    ),
    (
        'SIGTERM, SIGUSR1; in training, in validation, to workers too',
        'tests/engine/test_resume.py -k "weights or signal or usr1 or seed"',
        'weights at the end, bit for bit',
    ),
    (
        'a rank has no boxes, or an unequal last batch',
        'tests/test_ranks.py -k "steps or unequal"',
        'steps of one process',
    ),
    ('a rank dies, or gets SIGTERM alone', 'tests/test_ranks.py -k "dies or preempted"', 'both end, with the reason'),
    ('broken images and annotations', 'tests/datasets/test_robust_coco_dataset.py', 'samples of the sound ones'),
    ('steps with gradients that are not finite', 'tests/engine/test_skip_non_finite_hook.py', 'weights and statistics'),
    (FUZZED, 'tests/test_fuzz.py', "errors other than this package's own"),
)


def inject(tests: str, environment: dict[str, str], report: Path) -> tuple[int, int]:
    """Number of tests that ran and that passed."""
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--no-cov', f'--junitxml={report}']
    subprocess.run(
        [*command, *shlex.split(tests)], cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    if not report.exists():  # the injected fault ended the tests themselves
        return 1, 0
    suite = next(ElementTree.parse(report).iter('testsuite'))
    ran = int(suite.attrib['tests']) - int(suite.attrib['skipped'])
    return ran, ran - int(suite.attrib['failures']) - int(suite.attrib['errors'])


def markdown(results: dict) -> str:
    rows = []
    for fault in results['faults']:
        times, survived = fault['injected'], fault['survived']
        rows.append([fault['fault'], fault['compared'], f'{times:,}', f'{survived:,}', f'{times - survived:,}'])
    fuzzed = [
        [kind, f'{sum(outcomes.values()):,}', '; '.join(f'{name}: {count:,}' for name, count in outcomes.items())]
        for kind, outcomes in results['fuzzed'].items()
    ]
    half = results['crash'].get('half-written', 0)
    return '\n\n'.join(
        [
            table(['fault', 'compared', 'times or tests', 'survived', 'lost'], rows),
            f'{half} of the kills left a checkpoint half-written. Damaged files by kind:',
            table(['files', 'read', 'what came out'], fuzzed),
            f'`{results["command"]}`, {results["machine"]}.\n',
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--kills', type=int, default=40, help='kills of one run')
    parser.add_argument('--minutes', type=float, default=60, help='minutes of damaged files, a third for each kind')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    arguments = parser.parse_args()
    faults = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {
            'MMDET_DETR_KILLS': str(arguments.kills),
            'MMDET_DETR_CRASH_OUT': str(folder / 'crash.json'),
            'MMDET_DETR_FUZZ_SECONDS': str(arguments.minutes * 20),
            'MMDET_DETR_FUZZ_OUT': str(folder / 'fuzz.json'),
        }
        with ThreadPoolExecutor(JOBS) as pool:
            longest_first = sorted(FAULTS, key=lambda fault: fault[0] != FUZZED)
            futures = {
                fault: pool.submit(inject, tests, environment, folder / f'{number}.xml')
                for number, (fault, tests, _) in enumerate(longest_first)
            }
            for _ in track(as_completed(futures.values()), description='faults', total=len(futures)):
                pass
        for fault, tests, compared in FAULTS:
            ran, passed = futures[fault].result()
            if passed < max(1, ran):
                print(
                    f'reliability.py: not survived: {fault}: {passed} of {ran} tests passed: {tests}', file=sys.stderr
                )
            faults.append({'fault': fault, 'compared': compared, 'injected': max(1, ran), 'survived': passed})
        crash, fuzzed = (
            json.loads(path.read_text()) if path.exists() else {}
            for path in (folder / 'crash.json', folder / 'fuzz.json')
        )
    counts = {KILLED: crash.get('kills'), FUZZED: sum(sum(outcomes.values()) for outcomes in fuzzed.values())}
    lost = any(fault['survived'] < fault['injected'] for fault in faults)
    for fault in faults:  # one test injects many faults, and passes if all are survived
        if counts.get(fault['fault']) and fault['survived'] == fault['injected']:
            fault['injected'] = fault['survived'] = counts[fault['fault']]
    results = {
        'command': ' '.join(['python', 'benchmarks/reliability.py', *sys.argv[1:]]),
        'machine': machine('cpu'),
        'faults': faults,
        'crash': crash,
        'fuzzed': fuzzed,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / 'reliability.json').write_text(json.dumps(results, indent=1) + '\n')
    (arguments.out / 'reliability.md').write_text(markdown(results))
    print(markdown(results))
    sys.exit(lost)


if __name__ == '__main__':
    main()
