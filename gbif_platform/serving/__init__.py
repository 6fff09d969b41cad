"""A trained model at work on pictures from anywhere."""

import gbif_platform.training  # noqa: F401  it says how OpenMP waits, which must be said before torch is loaded
