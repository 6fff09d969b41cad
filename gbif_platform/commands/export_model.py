"""`gbif-platform export-model`: a model as one file for other programs."""

from pathlib import Path

import click

from gbif_platform.commands.shared import console
from gbif_platform.platform import Platform
from gbif_platform.settings import load_settings

FILES = {"onnx": "model.onnx", "torch-export": "model.pt2"}


@click.command("export-model")
@click.argument("model")
@click.option("--format", "kind", type=click.Choice(list(FILES)), required=True, help="Which runtime is to read it.")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the file.")
def export_model(model: str, kind: str, folder: Path) -> None:
    """Write a model as model.onnx or model.pt2: uint8 pictures in, logits and embedding out, labels in the metadata.

    MODEL is a bundle's folder, DATASET/MODEL (or DATASET/MODEL@SNAPSHOT), or models:/NAME@ALIAS of MLflow. The file is
    run and compared with the model before it is kept.
    """
    from gbif_platform.serving.models import find_model
    from gbif_platform.training.export_onnx import export_onnx, export_torch

    bundle = find_model(Platform(load_settings()), model)
    export = {"onnx": export_onnx, "torch-export": export_torch}[kind]
    done = export(bundle, folder / FILES[kind])
    console.print(
        f"{done.path}: {done.bytes / 1e6:,.1f} MB, {len(bundle.labels):,} labels; differs from the model by at most "
        f"{done.logit_difference:.1g} in logits, {done.embedding_difference:.1g} in embeddings",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
