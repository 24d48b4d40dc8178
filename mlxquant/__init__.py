"""mlxquant: make language models small and keep them good, on Apple Silicon.

    a model on disk ──load──▶ Checkpoint ──quantize──▶ wire bytes ──save──▶ a model on disk
                                  └───────────────run──────────────────▶ tokens

>>> from mlxquant import load, quantize, open_checkpoint
>>> quantize(output="books-4bit", bits=4)            # the bundled model, 4 bits
>>> model, tokenizer = load("books-4bit")            # what mlx_lm.generate takes
>>> quantize_gguf(output="books.gguf", request="Q4_K_M")

Importing this package imports neither mlx nor mlx-lm nor transformers.
"""

# The sub-packages `load` and `quantize` share their names with the two functions. They are
# imported first, so that binding the functions afterwards is what lasts: `mlxquant.quantize` is
# the function, `from mlxquant.quantize import policy` the module.
from . import load as _load_package  # noqa: F401
from . import quantize as _quantize_package  # noqa: F401
from .errors import (
    FileFormatError,
    HubError,
    InputError,
    MlxquantError,
    ModelError,
    OutputError,
    RequestError,
    TemplateError,
    WorkError,
    WriteError,
)
from .pipeline import import_gguf, load, open_checkpoint, quantize
from .pipeline_gguf import export, importance, quantize_gguf
from .pipeline_swift import export_swift

__version__ = "0.1.0"

__all__ = [
    "FileFormatError",
    "HubError",
    "InputError",
    "MlxquantError",
    "ModelError",
    "OutputError",
    "RequestError",
    "TemplateError",
    "WorkError",
    "WriteError",
    "__version__",
    "export",
    "export_swift",
    "import_gguf",
    "importance",
    "load",
    "open_checkpoint",
    "quantize",
    "quantize_gguf",
]
