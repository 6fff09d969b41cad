"""`python -m gbif_platform.sandbox`: serve the loopback GBIF until Ctrl-C."""

import signal
import sys
from threading import Event

import click

from gbif_platform.errors import PlatformError
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.sandbox.server import DEFAULT_PORT

_USE = """
The sandbox is at {url} (its GBIF API at {url}/v1):
{downloads}
Try
  curl {url}/v1/occurrence/download/{doi}
  curl -L -o sandbox.zip {url}/v1/occurrence/download/request/{key}.zip
  curl '{url}/v1/occurrence/search?mediaType=StillImage&limit=0&facet=speciesKey'
  curl '{url}/v2/species/match?scientificName=Demoptera+ocellata'
  curl -u frog:secret -H 'Content-Type: application/json' {url}/v1/occurrence/download/request \\
    -d '{{"format": "DWCA", "predicate": {{"type": "equals", "key": "FAMILY_KEY", "value": "99000001"}}}}'
  curl -u frog:secret {url}/v1/occurrence/download/user/frog
  curl {url}/_counts
and with the platform
  export GBIF_PLATFORM_GBIF_URL={url} GBIF_PLATFORM_ALLOW_PRIVATE_HOSTS=1
  gbif-platform dataset new insects --doi {doi}
Ctrl-C stops."""


@click.command()
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="0 takes a free one.")
@click.option(
    "--size", default=480, show_default=True, type=click.IntRange(1), help="Occurrences of the first snapshot."
)
@click.option("--seed", default=17, show_default=True, help="Another seed, another world of records.")
def main(port: int, size: int, seed: int) -> None:
    """Serve a loopback GBIF with two snapshots of one data set, the second a tenth larger."""
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with Sandbox(port) as sandbox:
            datasets = (SandboxDataset(seed, size), SandboxDataset(seed, size, grow=0.1))
            downloads = [sandbox.publish(dataset) for dataset in datasets]
            lines = [
                f"  {download.doi}  key {download.key}  {download.records_by_publisher.total()} occurrences"
                for download in downloads
            ]
            first = downloads[0]
            click.echo(_USE.format(url=sandbox.url, downloads="\n".join(lines), doi=first.doi, key=first.key))
            stopped.wait()
    except PlatformError as error:
        click.echo(error, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
