"""From a GBIF download to a species-identification model: an incremental, credited, reproducible data platform."""

__version__ = "0.1.0"
