"""What mends other people's packages: where it is below ``mmdet_detr``, why, and until when.

compat.requirements: pip cannot ask for "OneDL's mmdet or OpenMMLab's", and mmengine hides an ImportError of a scope.
    Until one of the two stacks is no longer supported, and mmengine shows the ImportError.
compat.missing_ops: mmdet imports mmcv.ops for every model, and fails if mmcv has no compiled operators.
    Until mmdet guards each of these imports (OneDL: all but roi_extractors/base_roi_extractor.py).
compat.missing_panopticapi: mmdet reads and evaluates panoptic data with panopticapi, which is not on PyPI.
    Until panopticapi is on PyPI, or mmdet has its own PQStat.
compat.late_imports: transformers, imgaug and imagecorruptions are imported at every start: 2 of 5 CPU seconds.
    Until mmengine and mmdet import these packages where they use them.
compat.cpu_ranks: mmengine's launchers call torch.cuda and hand device numbers to the model, without a GPU too.
    Until mmengine takes the gloo backend and no device numbers on a CPU.
compat.latest_checkpoint: mmengine resumes from the file that last_checkpoint names, which may be missing or cut off.
    Until mmengine looks for the newest complete checkpoint.
compat.kept_config: mmengine writes the resolved config of every start over the one in the folder of the run, which may
    be the file that it was read from; a test puts its checkpoint in the place of the weights to start from.
    Until mmengine writes it under a name of its own.
compat.terminal: mmengine, mmdet and pycocotools print hundreds of lines at each start, a table at each validation, and
    warnings that are true of every run.
    Until they log them at a lower level.
checkpoints.files: mmengine reads checkpoints by torch.load(weights_only=False), which runs a file's code.
    Until mmengine reads with weights_only=True, and its own checkpoints pass that.
checkpoints.pickles: PyTorch before 2.6 reads no further types with weights_only=True.
    Until PyTorch 2.1 to 2.5 are no longer supported: _Unpickler goes, the list of types stays.
checkpoints.numpy_values: NumPy trusts the state of a pickled dtype or array, and a damaged one corrupts memory.
    Until NumPy checks the state.
cli.mmdet_scripts: mmengine lets Python's exit end the process group (PyTorch may abort there), and shows a stack trace
    for every wrong input.
    Until mmengine destroys the process group.
safe_config: mmengine imports any object that a config names by its path, and reads pickles and unsafe YAML.
    Until mmengine has a way to forbid that.
engine.fsdp_strategy: mmengine's FSDPStrategy clips each rank's gradients alone, cannot resume, and needs a GPU.
    Until mmengine clips by the norm of all gradients, resumes with current PyTorch versions and runs on CPUs.
engine.log_history_hook: mmengine keeps a million values of each logged scalar, copies all to add one, and saves them.
    Until mmengine's HistoryBuffer appends in constant time and is short by default.
engine.atomic_checkpoint_hook: mmengine writes a checkpoint in place: a kill or a full disk leaves half a file.
    Until mmengine writes under another name first and then renames.
models.memory_format: oneDNN (PyTorch 2.1 to 2.13) writes beyond its memory in the backward pass of narrow strided
    1x1 convolutions.
    Until oneDNN is mended in every PyTorch that we support.
speed.flops: mmengine's FlopAnalyzer does not count the products of scaled_dot_product_attention and baddbmm.
    Until mmengine counts both.
"""
