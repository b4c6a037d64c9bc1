"""What mends other people's packages. The table says what, why, and until when; a test compares it with the code."""

from typing import NamedTuple


class Mend(NamedTuple):
    """A workaround for a fault of another package.

    Attributes:
        module: where it is, below ``mmdet_detr``.
        why: which package, and which fault.
        until: when it can go.
    """

    module: str
    why: str
    until: str


MENDS = (
    Mend(
        'compat.requirements',
        'pip cannot ask for "OneDL\'s mmdet or OpenMMLab\'s", and mmengine hides an ImportError of a scope',
        'one of the two stacks is no longer supported, and mmengine shows the ImportError',
    ),
    Mend(
        'compat.missing_ops',
        'mmdet imports mmcv.ops for every model, and fails if mmcv has no compiled operators',
        'mmdet guards each of these imports (OneDL: all but roi_extractors/base_roi_extractor.py)',
    ),
    Mend(
        'compat.late_imports',
        'mmengine and mmdet import transformers, imgaug and imagecorruptions at every start: 2 of 5 CPU seconds',
        'they import these packages where they use them',
    ),
    Mend(
        'compat.cpu_ranks',
        "mmengine's launchers call torch.cuda and hand device numbers to the model, without a GPU too",
        'mmengine takes the gloo backend and no device numbers on a CPU',
    ),
    Mend(
        'compat.latest_checkpoint',
        'mmengine resumes from the file that last_checkpoint names, although it may be missing or cut off',
        'mmengine looks for the newest complete checkpoint',
    ),
    Mend(
        'checkpoints.files',
        "mmengine reads checkpoints by torch.load(weights_only=False), which runs a file's code",
        'mmengine reads with weights_only=True, and its own checkpoints pass that',
    ),
    Mend(
        'checkpoints.pickles',
        'PyTorch before 2.6 reads no further types with weights_only=True',
        'PyTorch 2.1 to 2.5 are no longer supported: _Unpickler goes, the list of types stays',
    ),
    Mend(
        'checkpoints.numpy_values',
        'NumPy trusts the state of a pickled dtype or array, and a damaged one corrupts memory',
        'NumPy checks the state',
    ),
    Mend(
        'cli.mmdet_scripts',
        "mmengine prints hundreds of lines at each start, leaves the process group to Python's exit (PyTorch may abort "
        'there), and shows a stack trace for every wrong input',
        'mmengine prints less and destroys the process group',
    ),
    Mend(
        'cli.safe_config',
        'mmengine imports any Python object that a config names by its path, and reads pickles and unsafe YAML',
        'mmengine has a way to forbid that',
    ),
    Mend(
        'engine.fsdp_strategy',
        "mmengine's FSDPStrategy clips each rank's gradients by themselves, cannot resume, and needs a GPU",
        'mmengine clips by the norm of all gradients, resumes with the PyTorch of the day and runs on CPUs',
    ),
    Mend(
        'engine.log_history_hook',
        'mmengine keeps a million values of each logged scalar, copies all to add one, and saves them',
        "mmengine's HistoryBuffer appends in constant time and is short by default",
    ),
    Mend(
        'engine.atomic_checkpoint_hook',
        'mmengine writes a checkpoint in place, so that a kill or a full disk leaves half a file under its name',
        'mmengine writes under another name first and then renames',
    ),
    Mend(
        'models.memory_format',
        'oneDNN (PyTorch 2.1 to 2.13) writes beyond its memory in the backward pass of narrow strided 1x1 convolutions',
        'oneDNN is mended in every PyTorch that we support',
    ),
    Mend(
        'speed.flops',
        "mmengine's FlopAnalyzer does not count the products of scaled_dot_product_attention and baddbmm",
        'mmengine counts both',
    ),
)
