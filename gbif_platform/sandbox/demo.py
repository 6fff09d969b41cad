"""The demo: the sandbox at the address that the demo dataset names, with its download published."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from gbif_platform.dataset import Dataset
from gbif_platform.sandbox.archive import SandboxDataset
from gbif_platform.sandbox.server import Sandbox

SIZE = 480
"""Occurrences; the training takes about a minute on two cores."""


@contextmanager
def demo_sandbox(dataset: Dataset) -> Iterator[Sandbox]:
    """Serve the loopback GBIF that `dataset.source` points to.

    Raises:
        SandboxError: something else listens at that port.
    """
    source = dataset.source.gbif_download
    port = urlsplit(source.endpoint or "").port if source else None
    with Sandbox(port or 0) as sandbox:
        sandbox.publish(SandboxDataset(size=SIZE))
        yield sandbox
