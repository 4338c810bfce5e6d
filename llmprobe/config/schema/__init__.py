"""The schema of a run's YAML file: the classes of this package, whose docstrings document its keys.

Short forms (a name instead of a mapping) become mappings, and the resolved config is itself a valid
config. ``load.py`` reads files and reports what is wrong with them.
"""

from llmprobe.config.schema.datasets import DatasetConfig, HeldOutConfig, PairsConfig, PerturbConfig
from llmprobe.config.schema.engine import EngineConfig
from llmprobe.config.schema.extract import ExtractConfig
from llmprobe.config.schema.models import ActivationsConfig, ModelConfig
from llmprobe.config.schema.names import (
    TABLE_SUFFIXES,
    check_template,
    file_name,
    table_suffix,
    template_fields,
)
from llmprobe.config.schema.probe import ProbeConfig, curve_positions
from llmprobe.config.schema.questions import InterveneConfig, LinearConfig, TransferConfig
from llmprobe.config.schema.run import ReportConfig, RunConfig, expand_short_forms, short_dataset
from llmprobe.config.schema.section import Section, Seed

__all__ = [
    "TABLE_SUFFIXES",
    "ActivationsConfig",
    "DatasetConfig",
    "EngineConfig",
    "ExtractConfig",
    "HeldOutConfig",
    "InterveneConfig",
    "LinearConfig",
    "ModelConfig",
    "PairsConfig",
    "PerturbConfig",
    "ProbeConfig",
    "ReportConfig",
    "RunConfig",
    "Section",
    "Seed",
    "TransferConfig",
    "check_template",
    "curve_positions",
    "expand_short_forms",
    "file_name",
    "short_dataset",
    "table_suffix",
    "template_fields",
]
