"""A model folder as a place: what it lists, and where its names and links may lead.

A name from inside a file (`weight_map`, `model_file`) or a symbolic link must not lead out of the
folder: what is read is also copied beside the quantized weights. A snapshot of the Hugging Face
cache is made of links, so the two places where that cache keeps file contents count as inside:

    <cache>/models--org--name/snapshots/<commit>/model.safetensors
          → <cache>/models--org--name/blobs/<hash>
          → <cache>/blobs/<2 digits>/<hash>             (contents shared by several models)
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ModelError, one_line
from ..files.quote import quote
from ..files.sniff import describe

__all__ = ["PICKLES", "Folder", "refuse"]

#: suffixes of files that hold Python pickles, which can run code when they are opened
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

#: suffixes of weights and archives: never part of what accompanies the weights
_WEIGHTS = (*PICKLES, ".safetensors", ".gguf", ".npz", ".npy", ".h5", ".msgpack", ".onnx", ".zip")

_EXTRA_PREFIXES = ("tokenizer", "vocab.", "merges.", "LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_EXTRA_SUFFIXES = (".tiktoken", ".jinja", ".model")
_EXTRA_NAMES = frozenset(
    {
        "added_tokens.json",
        "chat_template.json",
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "special_tokens_map.json",
        "video_preprocessor_config.json",
    }
)
#: folders of additional chat templates: transformers' name, and the older one
_TEMPLATE_FOLDERS = ("additional_chat_templates", "chat_templates")


def refuse(path: Path, field: str, reason: str) -> ModelError:
    """The error for a folder that does not add up: `path: field: reason`, one line."""
    return ModelError(one_line(f"{path}: {field}: {reason}"))


class Folder:
    """A model folder.

    Attributes:
        path: as given.
        names: of everything in it but folders, sorted.

    Raises:
        ModelError: it does not exist, is a file, or cannot be listed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            self.names = [entry.name for entry in entries if not _is_folder(entry)]
            self._links = {entry.name for entry in entries if entry.is_symlink()}
        except NotADirectoryError:
            what = describe(path) or "a file"
            raise refuse(path, "folder", f"this is {what}; give the folder of a model") from None
        except FileNotFoundError:
            raise refuse(path, "folder", "there is no such folder") from None
        except (OSError, ValueError) as problem:
            raise refuse(path, "folder", f"cannot be listed: {problem}") from problem
        real = Path(os.path.realpath(path))
        self._roots = [real]
        repository = real.parent.parent
        if real.parent.name == "snapshots" and repository.name.startswith("models--"):
            blobs = (repository / "blobs", repository.parent / "blobs")
            self._roots += [Path(os.path.realpath(folder)) for folder in blobs]

    def member(self, name: str, named_by: Path | None = None, field: str = "file") -> Path:
        """The path of a file of this folder, which need not exist.

        Args:
            name: relative to the folder.
            named_by, field: the file and the field of it that the name comes from, to blame.

        Raises:
            ModelError: the name or a link leads outside the model folder.
        """
        blamed = named_by or self.path
        parts = name.replace("\\", "/").split("/")
        if not name.isprintable() or not {"", ".", ".."}.isdisjoint(parts) or ":" in parts[0]:
            raise refuse(
                blamed, field, f"{quote(name)} is outside the model folder, or no file name"
            )
        path = self.path / name
        if len(parts) == 1 and name not in self._links:
            return path
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(root) for root in self._roots):
            reason = (
                f"{quote(name)} is a link to {real}, outside the model folder; copy the file here"
            )
            raise refuse(blamed, field, reason)
        return path

    def extra_files(self, *, code: bool) -> tuple[Path, ...]:
        """What belongs to the model and is neither weights nor config.json: relative, sorted.

        Tokenizer, chat templates, generation and preprocessor settings, licence and notice; Python
        files only with `code`.

        Raises:
            ModelError: one of them is a link that leads outside the model folder, or nowhere.
        """
        extras = [name for name in self.names if _is_extra(name, code)]
        for folder in _TEMPLATE_FOLDERS:
            inside = self.path / folder
            if inside.is_dir():
                names = sorted(entry.name for entry in inside.iterdir())
                extras += [f"{folder}/{name}" for name in names if name.endswith(".jinja")]
        found = []
        for name in extras:
            path = self.member(name)
            if path.is_file():
                found.append(Path(name))
            elif path.is_symlink():
                reason = f"{quote(name)} is a link to '{path.readlink()}', which is missing"
                raise refuse(self.path, "file", reason)
        return tuple(sorted(found))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle: let it be found when it is opened
        return False


def _is_extra(name: str, code: bool) -> bool:
    if not name.isprintable() or name.lower().endswith(_WEIGHTS):
        return False
    if name.endswith(".py"):
        return code
    return (
        name in _EXTRA_NAMES or name.startswith(_EXTRA_PREFIXES) or name.endswith(_EXTRA_SUFFIXES)
    )
