"""A loopback GBIF for the demo and the tests: invented insects, their records, and a server that publishes them.

`with Sandbox() as sandbox: sandbox.publish(SandboxDataset())`, or `python -m gbif_platform.sandbox`. It answers
searches, name matches, requests for downloads and derived data sets in the shapes of GBIF's own answers, and fails
when a test plans it (`sandbox.fail_next(...)`).
"""

from gbif_platform.sandbox.archive import SandboxDataset
from gbif_platform.sandbox.server import Sandbox

__all__ = ["Sandbox", "SandboxDataset"]
