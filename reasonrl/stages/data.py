"""`reasonrl data`: a task's problems, as JSONL."""

from reasonrl.io import provenance
from reasonrl.settings import DataSettings
from reasonrl.tasks import source


def data(settings: DataSettings) -> None:
    """Print the problems of a task.

    mini is made on the spot, 10,000 train and 1,000 test problems. gsm8k and svamp are read from --path or
    $REASONRL_DATA (DIR/gsm8k/train.jsonl), else from the hub. docs/tasks.md says how to bring your own.

    \b
    Examples:
      reasonrl data mini --limit 3 | jq .
      reasonrl data gsm8k --path ~/data --split test -o gsm8k-test.jsonl
      reasonrl data mini --seed 1 --limit 100 | reasonrl sample --k 4
    """
    problems, readers = source.problem_stream(
        [], settings.task, settings.split, settings.limit, path=settings.path, shuffle_seed=settings.seed
    )
    with provenance.open_output(provenance.Run(settings)) as out:
        out.reads(readers)
        for problem in problems:
            out.write(problem)
