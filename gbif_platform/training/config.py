"""What a person may say about one model: the `models:` entries of a dataset file. Imports nothing heavy."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Loss = Literal["cross_entropy", "logit_adjusted"]
Augment = Literal["standard", "none"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


class ModelSpec(BaseModel):
    """One model: its backbone and how it is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = Field(
        default="resnet18",
        description="Name of a timm model. From random weights on a CPU, test_resnet (0.4 million parameters; at 96 px "
        "with learning_rate 0.004) learns more in a minute than resnet18 in three.",
    )
    pretrained: bool | str = Field(
        default=False,
        description="Start weights: false = random; true = timm's, from the Hugging Face hub or its local cache; "
        "a path = a local weights file (.safetensors or .pth) of the same backbone.",
    )
    train_on: str = Field(
        default="train", description="train, or a nested subset of it, e.g. train_small (split.subsets)."
    )
    epochs: int = Field(default=20, ge=1, description="Passes over the training pictures.")
    batch_size: int = Field(default=32, ge=1, description="Pictures per optimiser step.")
    image_size: int | None = Field(
        default=None,
        ge=16,
        le=2048,
        description="Side of the square the model sees, in pixels; empty = the backbone's own.",
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak rate of AdamW; cosine decay to zero follows.")
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW's decay; norms and biases are left out.")
    warmup_epochs: float = Field(default=2.0, ge=0, description="Epochs of linear warm-up to the peak rate.")
    loss: Loss = Field(
        default="cross_entropy",
        description="cross_entropy, or logit_adjusted (balanced softmax on the training counts, for rare labels).",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Share of the target spread over all labels.")
    patience: int = Field(
        default=0,
        ge=0,
        description="Stop after so many epochs in which validation improves in nothing; 0 = never. The rate falls to "
        "zero only at the last epoch, so from random weights 4 stops far too early; pretrained ones bear it.",
    )
    augment: Augment = Field(
        default="standard", description="standard = random crop, mirror and colours; none = as evaluated."
    )
    seed: int = Field(default=17, ge=0, description="Start weights, order and augmentation derive from it.")
    precision: Precision = Field(
        default="auto", description="auto = bf16-mixed where the hardware multiplies in bfloat16, else 32-true."
    )
    threads: int | None = Field(
        default=None, ge=1, description="Threads that read and decode; empty = one per core, at most 16."
    )
