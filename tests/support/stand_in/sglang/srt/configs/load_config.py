"""What a loader is told."""

import enum
from dataclasses import dataclass


class LoadFormat(enum.StrEnum):
    AUTO = "auto"


@dataclass
class LoadConfig:
    load_format: str | LoadFormat | type = LoadFormat.AUTO
