"""Every setting of every stage, once: its type, default, bounds, help, group, and what it does to a run.

Command-line flags, `--help`, docs/cli.md, presets, `--config`, the sidecar, the comparison of `--resume` and the
planner all read these declarations. Never imports torch, nor anything of the package but `errors`.
"""

from reasonrl.settings.declare import StageSettings
from reasonrl.settings.pipelines import DemoSettings, PlanSettings
from reasonrl.settings.records import DataSettings, EvalSettings, FilterSettings, ReportSettings, ScoreSettings
from reasonrl.settings.sampling import SampleSettings
from reasonrl.settings.trainers import OrmSettings, PpoSettings, RcrlSettings, SftSettings

STAGES: dict[str, type[StageSettings]] = {
    settings.STAGE: settings
    for settings in (
        DataSettings, SampleSettings, ScoreSettings, FilterSettings, SftSettings, OrmSettings, PpoSettings,
        RcrlSettings, EvalSettings, ReportSettings, PlanSettings, DemoSettings,
    )
}  # fmt: skip
"""In the order in which `reasonrl --help` lists them."""
