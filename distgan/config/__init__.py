"""The run description: `data`, `algorithm` and `engine` have every setting, `reading` fills and checks them."""

from distgan.config.algorithm import (
    AdamConfig,
    AugmentConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    Schedule,
    TrainingConfig,
)
from distgan.config.base import ConfigError, RunError, Section, setting
from distgan.config.data import CheckpointConfig, DataConfig, LogConfig, MetricsConfig
from distgan.config.engine import RayConfig, TuneConfig, WorkerRange
from distgan.config.reading import (
    allowed_text,
    dump_config,
    find_config,
    find_field,
    get_dotted,
    load_config,
    merge,
    read_yaml,
    set_dotted,
    shipped_configs,
    validate,
    walk_fields,
)
from distgan.config.settings import RunConfig

__all__ = [
    "AdamConfig",
    "AugmentConfig",
    "CheckpointConfig",
    "ConfigError",
    "DataConfig",
    "LogConfig",
    "LossConfig",
    "MetricsConfig",
    "ModelConfig",
    "OptimConfig",
    "RayConfig",
    "RunConfig",
    "RunError",
    "Schedule",
    "Section",
    "TrainingConfig",
    "TuneConfig",
    "WorkerRange",
    "allowed_text",
    "dump_config",
    "find_config",
    "find_field",
    "get_dotted",
    "load_config",
    "merge",
    "read_yaml",
    "set_dotted",
    "setting",
    "shipped_configs",
    "validate",
    "walk_fields",
]
