"""`reasonrl ppo`: rollouts, rewards and updates in one process."""

from contextlib import closing

from reasonrl.errors import UsageError
from reasonrl.rewards.registry import RewardResources, reward_specs
from reasonrl.settings import PpoSettings
from reasonrl.stages import training
from reasonrl.tasks import user_file


def ppo(settings: PpoSettings) -> None:
    """Train a policy by PPO, GRPO or RLOO; print the checkpoint's path.

    Draws rollouts of the task's problems, grades and scores them as `score` does, and improves the policy on them, with
    a KL penalty to the policy it started from. metrics.jsonl in the checkpoint has a line per update; docs/ppo.md
    explains every number. Several processes: accelerate launch -m reasonrl ppo --task T -o DIR.

    \b
    Examples:
      reasonrl ppo --task mini -o runs/ppo
      reasonrl ppo --task mini --reward exact --reward dense --weight dense=0.5 -o runs/ppo-dense
      reasonrl ppo --task gsm8k --model ./smollm2 --lora-rank 16 --advantage grpo --k 8 --lr 1e-5 -o runs/grpo
      checkpoint=$(reasonrl ppo --task mini -o runs/ppo --resume)
    """
    if settings.temperature == 0:
        raise UsageError("--temperature 0 draws one and the same solution again and again: nothing to learn from")
    specs = reward_specs(settings.reward, settings.weight)
    training.refuse_conditional(settings.model, "--model", "rollouts are drawn without; take the policy before rcrl")
    frame = training.Frame(settings, settings.problems, settings.task)
    problems = frame.read_problems()

    from reasonrl.models.prompt_form import prompt_form
    from reasonrl.rewards.scorer import RewardScorer
    from reasonrl.training.ppo.trainer import build, train

    policy = frame.load_language_model(settings.model)
    form = prompt_form(settings, policy.directory)
    # In fp32 a reward model's scores do not depend on the batch.
    resources = RewardResources(settings.orm, settings.device, "fp32", settings.batch_tokens, settings.timeout)
    read = user_file.answer_reader(settings.task)
    with closing(RewardScorer(specs, resources, settings.answer, read)) as scorer:
        rollouts = f"{settings.updates} updates of {settings.batch_size} rollouts ({settings.k} per question)"
        frame.announce(f"{rollouts}, {len(problems)} questions")
        about = frame.about(policy, rewards=scorer.about())
        train(build(policy, problems, scorer, form, settings, frame.checkpoint, about))
    frame.print_path()
