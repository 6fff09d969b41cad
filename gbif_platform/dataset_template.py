"""A dataset file to start from."""

from collections.abc import Sequence
from pathlib import Path

from gbif_platform.dataset import COMPONENT, DatasetFileError, parse_dataset

TEMPLATE = """\
type: {component}
attributes:
  name: {name}
  source: {source}
  label: {label}                      # any GBIF or Darwin Core term: species, speciesKey, genus, family …
  filters: {{licences: non-commercial}}   # open, non-commercial, any, or a list of SPDX ids
  sampling: {{policy: balanced, per_label: 500, min_per_label: 10}}   # policy: all takes everything
  images: {{size: 256}}
  split: {{subsets: {{train: 0.8, validation: 0.1, test: 0.1}}}}
  models:
    # any timm backbone; this tiny one learns from scratch on a CPU, {{backbone: resnet18, pretrained: true}} is better
    baseline: {{backbone: test_resnet, image_size: 96, epochs: 60, learning_rate: 0.004}}
"""


def source_text(
    archive: Path | None, doi: str | None, taxa: Sequence[str], countries: Sequence[str], search: bool
) -> str:
    """The source of a dataset file, as one line of YAML.

    Args:
        taxa, countries: scientific names and ISO codes of what GBIF is asked for.
        search: ask GBIF's search, else request a download.

    Raises:
        DatasetFileError: not exactly one source is given.
    """
    if sum(map(bool, (archive, doi, taxa))) != 1:
        raise DatasetFileError("name one source", "--archive FILE, --doi DOI, or --taxon NAME")
    if not taxa and (countries or search):
        raise DatasetFileError("--country and --search go with --taxon", "add --taxon NAME")
    if archive:
        return f"{{archive: {str(archive.absolute())!r}}}"
    if doi:
        return f"{{gbif_download: {{doi: {doi!r}}}}}"
    # quoted: YAML reads NO, Norway, as "no"
    query = {"mediaType": "StillImage", **({"country": list(countries)} if countries else {})}
    return f"{{{'gbif_search' if search else 'gbif_download'}: {{names: {list(taxa)!r}, query: {query!r}}}}}"


def new_dataset(file: Path, source: str, label: str) -> None:
    """Write a dataset file with a source from `source_text`.

    Raises:
        DatasetFileError: the file exists, or the name is no name.
    """
    if file.exists():
        raise DatasetFileError(f"{file} exists", "edit it, or choose another name")
    text = TEMPLATE.format(component=COMPONENT, name=file.stem, source=source, label=label)
    parse_dataset(text, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
