"""Runs that version 0.1 left: its sidecars, markers and metrics are still read."""

import pytest

from reasonrl.errors import UsageError
from reasonrl.io.provenance import Run
from reasonrl.settings import EvalSettings, SftSettings
from reasonrl.training.loop import update_of

# As 0.1 wrote them: null where a preset or a default gave the value, `clip` and `set_` by their old names.
OLD_SFT = {
    "records": ["kept.jsonl"], "model": "tiny", "output": "policy", "preset": "auto", "epochs": None,
    "batch_size": None, "lr": None, "final_lr": None, "warmup": 0.03, "weight_decay": 0.0, "clip": 1.0, "lora_rank": 0,
    "max_length": None, "prompt": None, "stop": None, "seed": 0, "limit": None, "batch_tokens": None,
    "gradient_checkpointing": False, "save_every": 200, "device": None, "dtype": "auto", "attn": None, "force": False,
    "resume": False,
}  # fmt: skip


def sft(**settings):
    return Run(SftSettings(records=("kept.jsonl",), output="policy", preset="tiny", resume=True, **settings))


def test_a_run_of_version_0_1_is_the_same_run():
    sft().check_same({"stage": "sft", "arguments": OLD_SFT}, "policy")
    sft(lr=0.5).check_same({"stage": "sft", "arguments": OLD_SFT}, "policy")  # null said that a preset gave it
    labels = Run(EvalSettings(scored=("a.jsonl",), labels=("round=2",)))
    labels.check_same({"stage": "eval", "arguments": {"scored": ["a.jsonl"], "set_": ["round=2"], "seed": 0}}, "m.json")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed was 1 and is 0"),
        ({"clip": 0.5}, "max_grad_norm was 0.5 and is 1.0"),
        ({"epochs": 3.0}, "epochs was 3.0 and is 2"),
        ({"records": ["other.jsonl"]}, r"records was \['other.jsonl'\] and is \['kept.jsonl'\]"),
    ],
)
def test_another_run_of_version_0_1_is_refused(changed, message):
    with pytest.raises(UsageError, match=f"policy was made by another command \\({message}\\)"):
        sft().check_same({"stage": "sft", "arguments": OLD_SFT | changed}, "policy")


def test_what_says_how_a_run_is_carried_out_may_change():
    described = sft().describe()
    sft(save_every=3, batch_tokens=99, device="cpu").check_same(described, "policy")
    with pytest.raises(UsageError, match="seed was 0 and is 1"):
        sft(seed=1).check_same(described, "policy")
    with pytest.raises(UsageError, match="another command"):
        Run(EvalSettings()).check_same(described, "policy")


def test_metrics_and_saved_states_of_both_versions_have_an_update():
    assert update_of({"step": 3, "loss": 1.0}) == update_of({"update": 3, "loss": 1.0}) == 3


def test_a_description_says_what_held_and_where_it_came_from():
    settings = SftSettings(preset="tiny", origins={"epochs": "preset tiny"})
    described = Run(settings).describe()
    assert described["arguments"]["epochs"] == 2 and described["arguments"]["records"] == []
    assert described["origins"] == {"epochs": "preset tiny"} and described["stage"] == "sft"
