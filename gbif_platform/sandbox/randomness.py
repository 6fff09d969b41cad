"""The sandbox's only source of chance: numbers that depend on a name alone, the same on every machine."""

from random import Random


def seeded(*name: object) -> Random:
    """Random numbers for the thing that has this name, such as `seeded("occurrence", 17, 3)`."""
    return Random("/".join(str(part) for part in name))  # noqa: S311  (drawings and test data, no secrets)
