"""The two ends of `tiny-orm`: a deeper policy for it to start from, and its weights in half the bytes.

    python recipes/tiny_orm_weights.py deepen MODEL OUT --layers 4
    python recipes/tiny_orm_weights.py halve ORM OUT

`deepen` adds layers on top that change nothing yet: what they add starts at zero. `halve` writes a finished verifier in
fp16, and copies what else is in its directory.
"""

import argparse
import copy
import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from reasonrl.models.policy import load_policy


def deepen(name: str, out: Path, layers: int, seed: int) -> None:
    """A policy of `layers` layers that says exactly what the policy `name` says."""
    policy = load_policy(name, device="cpu", dtype="fp32")
    before, config = policy.model, copy.deepcopy(policy.model.config)
    depth, config.num_hidden_layers = config.num_hidden_layers, layers
    torch.manual_seed(seed)
    deeper = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    deeper.load_state_dict(before.state_dict(), strict=False)
    for layer in deeper.model.layers[depth:]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    deeper.generation_config = before.generation_config
    deeper.save_pretrained(out)
    policy.tokenizer.save_pretrained(out)


def halve(directory: Path, out: Path) -> None:
    """The verifier in fp16; every other file as it is."""
    out.mkdir(parents=True, exist_ok=True)
    model = AutoModelForTokenClassification.from_pretrained(directory, dtype=torch.float32)
    model.half().save_pretrained(out)
    for path in directory.iterdir():
        if path.is_file() and not (out / path.name).exists():
            shutil.copy(path, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("deepen", "halve"))
    parser.add_argument("model", help="a policy, or the checkpoint of a verifier")
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.what == "deepen":
        deepen(options.model, options.out, options.layers, options.seed)
    else:
        halve(Path(options.model), options.out)


if __name__ == "__main__":
    main()
