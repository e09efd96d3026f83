"""fastattn: the CPU engine for attention models.

>>> import fastattn
>>> model = fastattn.load("en-fr-bahdanau")
>>> model.generate("I am eating an apple").text
'je mange une pomme'
"""

from fastattn import _load  # noqa: F401  first: it loads the extension

# isort: split
from fastattn import _native, isa, ops
from fastattn.api import Model, bundled_models, check_threads, load
from fastattn.attention_map import AttentionMap
from fastattn.conversion import convert
from fastattn.errors import FastattnError, InputError, LoadError, OptionError
from fastattn.generation import Generation
from fastattn.roofline import roofline

__version__ = "0.1.0"

__all__ = [
    "AttentionMap",
    "FastattnError",
    "Generation",
    "InputError",
    "LoadError",
    "Model",
    "OptionError",
    "__version__",
    "bundled_models",
    "convert",
    "get_num_threads",
    "isa",
    "load",
    "ops",
    "roofline",
    "set_num_threads",
]


def get_num_threads() -> int:
    """The default number of threads for models and ops: until it is set, the CPUs this process may use, or
    OMP_NUM_THREADS where that is less."""
    return int(_native.get_num_threads())


def set_num_threads(num_threads: int) -> None:
    """Sets the default number of threads for models and ops; OptionError unless it is an integer from 1 to 1024.

    However many are wanted, no more than eight for each CPU, or 64 where that is more, are started: results do not depend on it.
    """
    _native.set_num_threads(check_threads(num_threads))
