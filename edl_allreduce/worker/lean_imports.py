"""Loads Keras without what only its wrappers and plots need: scikit-learn, SciPy's statistics, Matplotlib, IPython.

Keras imports these wherever they are installed, which takes as long as a third of TensorFlow's own import. A quarter of
that is Python looking for garbage among what is imported, and there is none: `uncollected` leaves that out.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from edl_allreduce.contracts.zoo_files import MAX_FILES, python_files

OPTIONAL = ("sklearn", "matplotlib", "IPython")
_NEEDS_THEM = re.compile(r"\b(keras\.)?(wrappers|visualization|SKLearn\w+|file_editor|KerasFileEditor)\b")


def load_keras(model_zoo: str) -> None:
    """Imports Keras; with everything if the code of the model zoo names what needs it."""
    if not needs_everything(Path(model_zoo)):
        with absent(*OPTIONAL):
            import keras  # noqa: F401


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is looked for that could be freed, and never among what there is at the end of the block."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Imports in the block find these packages not installed; afterwards they can be imported as ever."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: whoever imports it gets ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def needs_everything(model_zoo: Path) -> bool:
    """Whether code in this folder, or file, names what is left out otherwise; as does a folder too large to look."""
    files = [model_zoo] if model_zoo.is_file() else list(islice(python_files(model_zoo), MAX_FILES + 1))
    if len(files) > MAX_FILES:
        return True
    return any(_NEEDS_THEM.search(file.read_text(encoding="utf-8", errors="replace")) for file in files)
