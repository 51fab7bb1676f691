"""`.gguf` files: dequantised once into a directory that transformers and reasonrl load like any other.

python -m reasonrl.models.gguf SmolLM2-135M-Instruct.Q4_1.gguf smollm2
"""

import errno
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reasonrl import console
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.io import provenance


def converted(file: str) -> str:
    """The directory that holds the file's weights; made beside the user's caches if it is not there yet."""
    if not os.path.isfile(file):
        raise UsageError(f"{file}: no such file")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "reasonrl", "gguf")
    directory = cache / f"{Path(file).stem}-{provenance.hash_files(file)[:12]}"
    if not directory.exists():
        console.log(f"converting {file} to {directory}, once")
        try:
            convert(file, directory)
        except OSError as error:  # another process, a shard beside this one say, was faster
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    return str(directory)


def convert(file: str, directory: str | Path) -> None:
    """Writes the dequantised fp32 model and its tokenizer to `directory`, whole or not at all.

    Each process works in a directory of its own beside that. Raises OSError where `directory` holds something by then.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # the loader draws its bars whether or not stderr is a terminal
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder, name = os.path.split(os.path.abspath(file))
    directory = Path(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    except ImportError as error:
        raise ReasonRLError(f"{file}: {error}; pip install 'reasonrl[gguf]'") from None
    except Exception as error:
        raise ReasonRLError(f"{file}: cannot be read as GGUF ({str(error).splitlines()[0]})") from None
    # The loader marks the model as quantised; its weights are not any more, and saving must not try to pack them.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    directory.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{directory.name}.", suffix=".partial", dir=directory.parent) as own:
        partial = Path(own, "model")  # `own` itself is readable by its owner only
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        os.replace(partial, directory)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m reasonrl.models.gguf FILE.gguf DIRECTORY")
    convert(sys.argv[1], sys.argv[2])
