"""A bundle as one file for other runtimes: ONNX, or torch.export's `.pt2`; each is run and compared before it is kept.

Both take uint8 pictures (N, 3, size, size), RGB, resized and cropped as `preprocess` in the metadata says, and give
`logits` float32 (N, C) and `embedding` float32 (N, D) of length 1. The normalisation is part of the graph.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gbif_platform.errors import PlatformError
from gbif_platform.training.bundle import Bundle
from gbif_platform.training.files import write_atomically

TOLERANCE = 1e-3
"""Largest difference of a logit or of an embedding's component; another order of sums gives about 1e-5."""
CHECKED = (1, 3)  # batch sizes: the dimension must have stayed free
METADATA_FILE = "model.json"
Run = Callable[[np.ndarray], list[np.ndarray]]


class ExportError(PlatformError):
    """A model cannot be exported, or answers otherwise than its bundle."""


@dataclass(frozen=True)
class Exported:
    """A file that was compared with its bundle.

    Attributes:
        path, bytes: of the file.
        logit_difference, embedding_difference: the largest, absolute, over the pictures compared.
    """

    path: Path
    bytes: int
    logit_difference: float
    embedding_difference: float


class Exportable(nn.Module):
    """The network with its normalisation before it and the length of its embedding set to 1."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.network = bundle.network()
        for name, values in (("mean", bundle.preprocess.mean), ("std", bundle.preprocess.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1) * 255)
        self.mean: torch.Tensor
        self.std: torch.Tensor

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 (N, 3, size, size) → logits (N, C), embedding (N, D)."""
        embedding = self.network.embed((images.float() - self.mean) / self.std)
        return self.network.head(embedding), nn.functional.normalize(embedding, dim=1)


def export_onnx(bundle: Bundle, path: Path) -> Exported:
    """Write `bundle` as ONNX, with labels, taxonomy, provenance and class counts in its metadata (`metadata`).

    Raises:
        BundleError, ExportError.
    """
    import onnxruntime

    def write(temporary: Path) -> None:
        program = torch.onnx.export(
            Exportable(bundle).eval(),
            (_example(bundle),),
            dynamo=True,
            input_names=["images"],
            output_names=["logits", "embedding"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(metadata(bundle))
        program.save(temporary)

    def load(temporary: Path) -> Run:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(temporary, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(["logits", "embedding"], {"images": images})

    return _exported(bundle, path, write, load)


def export_torch(bundle: Bundle, path: Path) -> Exported:
    """Write `bundle` as a `.pt2` for torch.export.load, with the same metadata in its extra file `model.json`.

    Raises:
        BundleError, ExportError.
    """

    def write(temporary: Path) -> None:
        program = torch.export.export(
            Exportable(bundle).eval(),
            (_example(bundle),),
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
        torch.export.save(program, temporary, extra_files={METADATA_FILE: json.dumps(metadata(bundle))})

    def load(temporary: Path) -> Run:
        module = torch.export.load(temporary).module()

        def run(images: np.ndarray) -> list[np.ndarray]:
            with torch.inference_mode():
                return [part.numpy() for part in module(torch.from_numpy(images))]

        return run

    return _exported(bundle, path, write, load)


PRIOR = ("loss", "sampler", "tau", "beta")
"""Settings of the training that say which prior the logits hold, see `priors`."""


def metadata(bundle: Bundle) -> dict[str, str]:
    """What a reader needs beside the graph: texts, or JSON of lists and objects."""
    values = {
        "labels": bundle.labels,
        "class_counts": bundle.class_counts,
        "taxonomy": bundle.taxonomy,
        "provenance": asdict(bundle.provenance),
        "preprocess": bundle.preprocess.to_json(),
        "pictures": bundle.pictures,
        "prior": {name: bundle.spec[name] for name in PRIOR if name in bundle.spec},
        "temperature": bundle.temperature,
        "tau": bundle.tau,
    }
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    return {"backbone": bundle.backbone, "output": bundle.output, **texts}


def _example(bundle: Bundle) -> torch.Tensor:
    size = bundle.preprocess.size
    return torch.zeros(2, 3, size, size, dtype=torch.uint8)  # of one picture, the batch would be taken as fixed


def _exported(bundle: Bundle, path: Path, write: Callable[[Path], None], load: Callable[[Path], Run]) -> Exported:
    """Write, run and compare beside `path`; only what agrees gets that name."""
    found: list[float] = []

    def make(temporary: Path) -> None:
        with _quiet():
            try:
                write(temporary)
                found.extend(_differences(bundle, load(temporary)))
            except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
                reason = str(error).strip().partition("\n")[0][:200]
                raise ExportError(
                    f"{bundle.backbone} cannot be exported as {path.suffix}: {reason}", "take another backbone"
                ) from error
        if not max(found) <= TOLERANCE:
            raise ExportError(
                f"{path.name} answers otherwise than the bundle: logits differ by {found[0]:.2g}, "
                f"embeddings by {found[1]:.2g}",
                "take another backbone, or another release of torch",
            )

    write_atomically(Path(path), make)
    return Exported(Path(path), Path(path).stat().st_size, *found)


def _differences(bundle: Bundle, run: Run) -> tuple[float, float]:
    """The largest of logits and embeddings between the bundle's network, float32 on the CPU, and `run`."""
    network = bundle.network()
    random, size = np.random.default_rng(0), bundle.preprocess.size
    largest = [0.0, 0.0]
    for count in CHECKED:
        images = random.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
        with torch.inference_mode():
            embedding = network.embed(bundle.preprocess.normalise(torch.from_numpy(images)))
            wanted = [network.head(embedding), nn.functional.normalize(embedding, dim=1)]
        for place, (want, have) in enumerate(zip(wanted, run(images), strict=True)):
            difference = float(np.abs(want.numpy() - have).max())
            largest[place] = max(largest[place], difference) if np.isfinite(difference) else np.inf
    return largest[0], largest[1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
