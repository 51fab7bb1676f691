"""`reasonrl sample --dry-run`: the first prompt, its tokens, and what would be drawn. Loads no weights."""

import sys

from reasonrl import console
from reasonrl.io import jsonl
from reasonrl.io.records import Record
from reasonrl.settings import SampleSettings
from reasonrl.tasks import exemplars


def show(settings: SampleSettings, problems: list[Record], shown: exemplars.Exemplars) -> None:
    """JSON on stdout, and lines on stderr for the eye. Raises RecordError for a prompt that does not fit."""
    from reasonrl.models import labels
    from reasonrl.models.language_model import load_tokenizer
    from reasonrl.models.prompt_form import prompt_form
    from reasonrl.sampling import engines

    engines.parse_arguments(settings.engine_arg)  # raises where they are none
    engine = engines.choose(settings)
    policy = load_tokenizer(settings.model)
    form = prompt_form(settings, policy.directory)
    condition = labels.condition(settings.condition, policy.directory, settings.model)
    label, label_ids = (condition.text, policy.encode_completion(condition.text)) if condition else ("", [])
    texts = [shown.render(problem, form, policy.tokenizer) for problem in problems]
    encoded = [policy.encode_prompt(text) + label_ids for text in texts]
    for problem, ids in zip(problems, encoded, strict=True):
        policy.check_fits(problem["id"], ids)
    tokens = policy.tokenizer.convert_ids_to_tokens(encoded[0])
    lengths = [len(ids) for ids in encoded]
    plan = {
        "problems": len(problems), "first": problems[0]["id"], "model": settings.model, "directory": policy.directory,
        "backend": engine, "form": form.name, "stop": list(form.stop), "eos_ids": sorted(policy.eos_ids),
        "shots": shown.count, "shots_ids": [exemplar["id"] for exemplar in shown.of(problems[0])],
        "context": policy.context,
        "prompt_tokens": {"shortest": min(lengths), "longest": max(lengths), "all": sum(lengths)},
        "most_new_tokens": len(problems) * settings.k * settings.max_tokens,
    } | ({"condition": condition.name} if condition else {})  # fmt: skip
    names = ("k", "temperature", "top_p", "max_tokens", "seed", "output")
    plan |= {name: getattr(settings, name) for name in names}
    for line in (texts[0] + label).split("\n"):
        console.log(f"| {line}")
    console.log(f"{lengths[0]} tokens: {' '.join(tokens)}")
    console.log(", ".join(f"{name} {value}" for name, value in plan.items()))
    shown_first = {"plan": plan, "prompt": texts[0] + label, "prompt_ids": encoded[0], "tokens": tokens}
    sys.stdout.write(jsonl.dumps(shown_first).decode() + "\n")
