"""What a person may say about one model: the `models:` entries of a dataset file. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Augment = Literal["standard", "none"]
Loss = Literal["cross_entropy", "class_balanced", "balanced_softmax", "logit_adjusted", "focal"]
Output = Literal["softmax", "sigmoid"]
Pooling = Literal["avg", "max", "avgmax"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Sampler = Literal["natural", "balanced", "sqrt"]


class Spec(BaseModel):
    """A mapping under `models:`; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EvaluationSpec(Spec):
    """How a model is judged. None of it trains anything anew."""

    tau: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="Prior of the answers: 0 = labels as frequent as in training, 1 = all labels equally likely.",
    )
    top_k: int = Field(default=10, ge=1, description="Answers kept for each picture in the predictions table.")
    slices: list[str] = Field(
        default=["dataset_key", "country_code", "year", "season", "license", "observer", "daylight"],
        description="Metrics are also computed for each value of these: columns of occurrences or media, and year, "
        "season (of the hemisphere), daylight (by date, hour and place), observer (seen in training or not).",
    )
    slice_min: int = Field(default=20, ge=1, description="Pictures that a slice needs to be shown.")
    rank_confidence: float = Field(
        default=0.8, gt=0, lt=1, description="Probability at which an answer is given at the lowest rank that has it."
    )
    resamples: int = Field(default=500, ge=50, description="Resamples of the bootstrap over groups.")
    protected: list[str] = Field(
        default=[], description="Slices in which a new champion may not be worse, e.g. [country_code]."
    )
    margin: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="A model is not worse than the champion where the intervals of the differences in macro accuracy "
        "and top-1 reach no lower than minus this; 0 = no interval may lie below zero as a whole.",
    )


class ModelSpec(Spec):
    """One model: its backbone and how it is trained."""

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
    warm_start: bool = Field(
        default=False,
        description="Start from the champion of an earlier snapshot, where there is one of the same backbone; labels "
        "that it knows keep their outputs.",
    )
    freeze_backbone: bool = Field(
        default=False, description="Train the head alone; the backbone stays as it is, its BatchNorm statistics too."
    )
    pooling: Pooling | None = Field(default=None, description="Over the feature map; empty = the backbone's own.")
    hidden: int | None = Field(default=None, ge=1, description="Width of a hidden layer (ReLU) of the head.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Before each layer of the head.")
    output: Output = Field(
        default="softmax", description="softmax = one label a picture; sigmoid = each label for itself (multi-label)."
    )
    train_on: str = Field(
        default="train", description="train, or a nested subset of it, e.g. train_small (split.subsets)."
    )
    epochs: int = Field(default=20, ge=1, description="Passes over the training pictures.")
    batch_size: int = Field(default=32, ge=1, description="Pictures a step on each device.")
    accumulate_grad_batches: int = Field(default=1, ge=1, description="Batches of one optimiser step.")
    image_size: int | None = Field(
        default=None,
        ge=16,
        le=2048,
        description="Side of the square the model sees, in pixels; empty = the backbone's own.",
    )
    learning_rate: Annotated[float, Field(gt=0)] | Literal["find"] = Field(
        default=1e-3, description="Peak rate of AdamW; cosine decay to zero follows. find = by a range test first."
    )
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="Each layer learns at this share of the rate of the one above it."
    )
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW's decay; norms and biases are left out.")
    warmup_epochs: float = Field(default=2.0, ge=0, description="Epochs of linear warm-up to the peak rate.")
    gradient_clip_val: float | None = Field(default=None, gt=0, description="Largest norm of a gradient; empty = any.")
    ema_decay: float = Field(
        default=0.0, ge=0, lt=1, description="Judge and keep a moving average of the weights, e.g. 0.999; 0 = none."
    )
    loss: Loss = Field(
        default="cross_entropy",
        description="cross_entropy; class_balanced (weights by effective number); balanced_softmax (the training "
        "counts in the loss, for rare labels); logit_adjusted (the same with strength tau); focal.",
    )
    tau: float = Field(default=1.0, ge=0, description="Strength of loss: logit_adjusted.")
    beta: float = Field(default=0.999, ge=0, lt=1, description="Of loss: class_balanced.")
    gamma: float = Field(default=2.0, ge=0, description="Of loss: focal.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Share of the target spread over all labels.")
    sampler: Sampler = Field(
        default="natural",
        description="How often a label's pictures come in an epoch: as they are, equally often, or by square root.",
    )
    mixup: float = Field(default=0.0, ge=0, description="Alpha of mixup; 0 = none.")
    cutmix: float = Field(default=0.0, ge=0, description="Alpha of CutMix; 0 = none.")
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
    compile: bool = Field(default=False, description="Compile the network with torch.compile, in place.")
    devices: int = Field(default=1, ge=1, description="GPUs (or CPU processes) that train together, by DDP.")
    num_nodes: int = Field(default=1, ge=1, description="Machines that train together; see docs/training.md.")
    threads: int | None = Field(
        default=None, ge=1, description="Threads that read and decode; empty = one per core, at most 16."
    )
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="How the model is judged.")

    def training(self) -> "ModelSpec":
        """Without what trains nothing: two models that differ in nothing else have the same weights."""
        return self.model_copy(update={"evaluation": EvaluationSpec()})
