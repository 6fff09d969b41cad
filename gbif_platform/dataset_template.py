"""A dataset file to start from."""

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


def new_dataset(file: Path, *, archive: Path | None, doi: str | None, label: str) -> None:
    """Write a dataset file for an archive or a GBIF download.

    Raises:
        DatasetFileError: the file exists, the name is no name, or not exactly one source is given.
    """
    if (archive is None) == (doi is None):
        raise DatasetFileError("name one source", "--archive FILE, or --doi DOI")
    if file.exists():
        raise DatasetFileError(f"{file} exists", "edit it, or choose another name")
    source = f"{{archive: {str(archive.absolute())!r}}}" if archive else f"{{gbif_download: {{doi: {doi!r}}}}}"
    text = TEMPLATE.format(component=COMPONENT, name=file.stem, source=source, label=label)
    parse_dataset(text, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
