"""Which form a run puts its questions in: the flags', else the checkpoint's, else the task's, else `plain`."""

from dataclasses import replace
from pathlib import Path

from reasonrl.errors import UsageError
from reasonrl.models import checkpoint
from reasonrl.prompts import PromptForm, next_question
from reasonrl.settings.shared import PromptSettings
from reasonrl.tasks import user_file


def prompt_form(settings: PromptSettings, *directories: str) -> PromptForm:
    """The form of a run. directories: of models that may remember one; the first that does counts.

    Raises UsageError for a --prompt that is no form.
    """
    name = settings.prompt
    form = named(name) if name is not None else _default_form(settings, *directories)
    stop = getattr(settings, "stop", None)
    return form if stop is None else replace(form, stop=stop)


def _default_form(settings: PromptSettings, *directories: str) -> PromptForm:
    """The form of a model in one of the directories, else that of the task, else `plain`."""
    forms = (checkpoint.remembered_form(directory) for directory in directories)
    return (
        next((form for form in forms if form), None)
        or user_file.task_form(getattr(settings, "task", None))
        or PromptForm()
    )


def named(name: str) -> PromptForm:
    """plain, chat, a file with a template, or a task's Python file. Raises UsageError for anything else."""
    if name == "plain":
        return PromptForm()
    if name == "chat":
        return PromptForm("chat", None, ())
    if name.endswith(".py"):
        if form := user_file.task_form(name):
            return form
        raise UsageError(f"--prompt {name}: the file defines no PROMPT")
    try:
        template = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"--prompt {name}: want plain, chat, or a readable file") from None
    if "{question}" not in template:
        raise UsageError(f"--prompt {name}: the file has no {{question}} in it")
    return PromptForm(Path(name).name, template, next_question(template))
