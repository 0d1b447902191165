"""What a user can set: one frozen section per stage, YAML over defaults, flags over YAML."""

from ifcheck.config.merge import (
    config_from_dict,
    differences,
    flatten,
    given_values,
    load_config,
    merge_settings,
    replace_section,
)
from ifcheck.config.sections import (
    Config,
    DataConfig,
    DiagnoseConfig,
    EigenConfig,
    EvaluateConfig,
    InfluenceConfig,
    RetrainConfig,
    RunConfig,
    StudyConfig,
    TrainConfig,
    VerdictConfig,
)
from ifcheck.config.values import Choice, Normalisation, parse_integers

__all__ = [
    "Choice",
    "Config",
    "DataConfig",
    "DiagnoseConfig",
    "EigenConfig",
    "EvaluateConfig",
    "InfluenceConfig",
    "Normalisation",
    "RetrainConfig",
    "RunConfig",
    "StudyConfig",
    "TrainConfig",
    "VerdictConfig",
    "config_from_dict",
    "differences",
    "flatten",
    "given_values",
    "load_config",
    "merge_settings",
    "parse_integers",
    "replace_section",
]
