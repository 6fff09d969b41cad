"""What every mapping in a dataset file is: typed, closed to unknown keys, and immutable."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A mapping in a dataset file; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def stated(part: BaseModel) -> str:
    """What a part of a dataset file says beyond the defaults: a key added to the platform changes no version."""
    return part.model_dump_json(exclude_defaults=True)
