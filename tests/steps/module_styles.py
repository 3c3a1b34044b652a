"""Small classifiers in the styles in which people write them; each notes what its own step saw."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytorch_lightning
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_flip.steps import StepSource
from tests.callbacks.helpers import CLASSES, points

COUNT, FEATURES, HIDDEN = 40, 4, 8

# -- data: the first feature of a sample is its position -----------------------------------------------


def three_classes(seed: int = 0) -> TensorDataset:
    """Samples (position, four features) with one of three labels."""
    return points(COUNT, seed)


def parts(seed: int) -> tuple[Tensor, Tensor]:
    """The features and labels of all samples."""
    x, y = three_classes(seed).tensors
    return x, y


def two_classes(seed: int = 0) -> TensorDataset:
    x, y = parts(seed)
    return TensorDataset(x, (y == 0).long())


def tens(seed: int = 0) -> TensorDataset:
    """Labels 10, 20 and 30."""
    x, y = parts(seed)
    return TensorDataset(x, 10 * (y + 1))


def six_classes(seed: int = 0) -> TensorDataset:
    """Two finer labels for each of three."""
    x, y = parts(seed)
    return TensorDataset(x, 2 * y + torch.arange(COUNT) % 2)


def with_meta(seed: int = 0) -> TensorDataset:
    x, y = parts(seed)
    return TensorDataset(x, torch.stack([x[:, 0], -x[:, 0]], dim=1), y)


def multi_hot(seed: int = 0) -> TensorDataset:
    x, _ = parts(seed)
    return TensorDataset(x, (x[:, 1 : 1 + CLASSES] > 0).float())


def token_labels(seed: int = 0) -> TensorDataset:
    """A label for each of four tokens of a sample."""
    x, y = parts(seed)
    return TensorDataset(x, (y[:, None] + torch.arange(4)) % CLASSES)


def heights(seed: int = 0) -> TensorDataset:
    """A number to be regressed."""
    x, _ = parts(seed)
    return TensorDataset(x, x[:, 1] + x[:, 2])


class Species(Dataset[dict[str, Tensor]]):
    """Samples as dicts, with labels under an unusual key and another integer beside them."""

    def __init__(self, seed: int = 0) -> None:
        self.x, self.y = parts(seed)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"site": torch.tensor(index % CLASSES), "pixels": self.x[index], "species": self.y[index]}


class GraphBatch:
    """A batch as graph libraries have it: attributes and `to`."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def to(self, device: Any, *args: Any, **kwargs: Any) -> GraphBatch:
        return GraphBatch(self.x.to(device), self.y.to(device))


def graphs(samples: Sequence[tuple[Tensor, Tensor]]) -> GraphBatch:
    """Collate samples into a graph batch."""
    return GraphBatch(torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples]))


# -- networks ------------------------------------------------------------------------------------------


class WithoutPosition(nn.Module):
    """Drops the position, so that nothing learns from it."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:]


def backbone() -> nn.Sequential:
    return nn.Sequential(WithoutPosition(), nn.Linear(FEATURES, HIDDEN), nn.ReLU())


def head(outputs: int = CLASSES) -> nn.Linear:
    return nn.Linear(HIDDEN, outputs)


def network(outputs: int = CLASSES, *last: nn.Module) -> nn.Sequential:
    """The network of all styles; seeded alike, all have the same weights."""
    return nn.Sequential(WithoutPosition(), nn.Linear(FEATURES, HIDDEN), nn.ReLU(), head(outputs), *last)


def by_hand(net: nn.Sequential, x: Tensor) -> Tensor:
    """What `network()` says, without calling any module."""
    first, second = net[1], net[3]
    hidden = (x[:, 1:] @ first.weight.t() + first.bias).clamp_min(0.0)
    return hidden @ second.weight.t() + second.bias


@dataclass
class Output:
    """What some networks return."""

    features: Tensor
    logits: Tensor


# -- what all styles share -----------------------------------------------------------------------------


@dataclass
class Note:
    """What one step saw: the positions of its samples, what the network said, and the labels."""

    split: str
    epoch: int
    index: list[int]
    said: Tensor
    labels: list[int]


class Notes:
    """Notes of the first evaluation of every batch, the weights after every epoch, and plain SGD."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Note] = []
        self.after_epoch: list[list[Tensor]] = []

    @torch.compiler.disable
    def note(self, x: Tensor, y: Tensor, said: Tensor) -> None:
        if self.trainer.sanity_checking:
            return
        index = x[: len(y), 0].long().tolist()
        split = "train" if self.trainer.training else "val"
        moment = (split, self.current_epoch, index)
        if all((note.split, note.epoch, note.index) != moment for note in self.seen):
            self.seen.append(Note(*moment, said.detach().clone(), y.tolist()))

    def regularized(self, loss: Tensor) -> Tensor:
        """Without a mixin there is nothing to add."""
        return loss

    def manually(self, loss: Tensor, optimizer: Any) -> None:
        """One step of manual optimization."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def on_train_epoch_end(self) -> None:
        self.after_epoch.append([weight.detach().clone() for weight in self.parameters()])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.2)


class Style(Notes, pl.LightningModule):
    """The base of styles in lightning."""


class Plain(Style):
    """The textbook: its own forward, mean cross entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


class PlainBinary(Style):
    """Two logits of which the first is 0: what one logit means."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(1)

    def forward(self, x: Tensor) -> Any:
        return torch.cat([torch.zeros(len(x), 1), self.net(x)], dim=1)

    training_step = Plain.training_step


class ByNetwork(Style):
    """Calls its network and has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.net(x)
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


# -- where the logits come from ------------------------------------------------------------------------


class ExplicitForward(Plain):
    """Calls `self.forward`, which no hook sees."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.forward(x)
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


class OtherForward(ByNetwork):
    """Its forward is for users and says something else than the network."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x).argmax(dim=1)


class BackboneAndHead(Style):
    """Calls two submodules in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = backbone(), head()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.head(self.backbone(x))
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


class CriterionAndMetric(Plain):
    """The loss is a module, a metric is updated before it, the step is shared and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()
        self.accuracy = MulticlassAccuracy(CLASSES)

    def shared_step(self, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        logits = self(x)
        self.note(x, y, logits)
        self.log("accuracy", self.accuracy(logits.softmax(dim=1), y), batch_size=len(y))
        return {"loss": self.criterion(logits, y), "preds": logits.argmax(dim=1)}

    def training_step(self, batch: Any) -> Any:
        return self.shared_step(batch)


class FeaturesAndLogits(BackboneAndHead):
    """Its forward returns (features, logits)."""

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        return features, self.head(features)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        _, logits = self(x)
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


class LogitsAndFeatures(BackboneAndHead):
    """Its forward returns (logits, features)."""

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        return self.head(features), features

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits, _ = self(x)
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


class UnderKey(BackboneAndHead):
    """Its forward returns a dict with the logits under the usual key."""

    key = "logits"

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        return {"features": features, self.key: self.head(features)}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)[self.key]
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


class UnderOtherKey(UnderKey):
    """The same under another key."""

    key = "out"


class AsAttribute(BackboneAndHead):
    """Its forward returns an object with `.logits`."""

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        return Output(features, self.head(features))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        output = self(x)
        self.note(x, y, output.logits)
        return F.cross_entropy(output.logits, y)


class LosingNetwork(nn.Module):
    """A network that computes its own loss, as those for text do."""

    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.layers = network()
        self.as_dict = as_dict

    def forward(self, x: Tensor, y: Tensor) -> Any:
        logits = self.layers(x)
        loss = F.cross_entropy(logits, y)
        return {"loss": loss, "logits": logits} if self.as_dict else (loss, logits)


class LossInNetwork(Style):
    """Its network returns (loss, logits)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = LosingNetwork(as_dict=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss, logits = self.net(x, y)
        self.note(x, y, logits)
        return loss


class LossInNetworkDict(Style):
    """Its network returns a dict of loss and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = LosingNetwork(as_dict=True)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        output = self.net(x, y)
        self.note(x, y, output["logits"])
        return output["loss"]


class TwoViews(Plain):
    """Averages the logits of two views of a batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = (self(x) + self(1.1 * x)) / 2
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


class Temperature(ByNetwork):
    """Divides its network's logits in the step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.net(x) / 0.7
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


class FunctionalHead(Style):
    """Its last layer is a matrix and no module."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()
        self.weight = nn.Parameter(0.3 * torch.randn(CLASSES, HIDDEN))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.backbone(x) @ self.weight.t()
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


class TwoViewsInForward(Plain):
    """The same as its own forward."""

    def forward(self, x: Tensor) -> Any:
        return (self.net(x) + self.net(1.1 * x)) / 2


class TemperatureInForward(Plain):
    """The same as its own forward."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x) / 0.7


class FunctionalHeadInForward(FunctionalHead):
    """The same as its own forward."""

    def forward(self, x: Tensor) -> Any:
        return self.backbone(x) @ self.weight.t()

    training_step = Plain.training_step


class SampledRows(Plain):
    """Its network sees neighbors too, and says more rows than there are samples."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(torch.cat([x, -x[:3]]))[: len(y)]
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


# -- kinds of output and of loss -----------------------------------------------------------------------


class SoftmaxInNetwork(Style):
    """Its network says probabilities, and the loss takes their logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(CLASSES, nn.Softmax(dim=1))

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        probs = self(x)
        self.note(x, y, probs)
        return F.nll_loss(probs.log(), y)


class LogSoftmaxInForward(Plain):
    """Its forward says log-probabilities."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x).log_softmax(dim=1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        log_probs = self(x)
        self.note(x, y, log_probs)
        return F.nll_loss(log_probs, y)


class LogSoftmaxOutside(ByNetwork):
    """Takes the logarithm of the softmax itself."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.net(x)
        self.note(x, y, logits)
        return F.nll_loss(F.log_softmax(logits, dim=1), y)


class SigmoidColumn(Style):
    """One probability a sample, as a column."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(1, nn.Sigmoid())

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        probs = self(x)
        self.note(x, y, probs)
        return F.binary_cross_entropy(probs, y[:, None].float())


class OneLogit(Style):
    """One logit a sample, as a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(1)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)[:, 0]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        self.note(x, y, logits)
        return F.binary_cross_entropy_with_logits(logits, y.float())


class OneLogitColumn(Style):
    """One logit a sample, as a column."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(1)
        self.criterion = nn.BCEWithLogitsLoss()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.net(x)
        self.note(x, y, logits)
        return self.criterion(logits, y.float().unsqueeze(1))


class Losing(Plain):
    """Another loss of the logits of its forward."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        self.note(x, y, logits)
        return self.loss(logits, y)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        raise AssertionError  # each style has its own


class LogSumExp(Losing):
    """Cross entropy by hand, through logsumexp."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return (logits.logsumexp(dim=1) - logits.gather(1, y[:, None])[:, 0]).mean()


class OneHotByHand(ByNetwork):
    """Cross entropy by hand, with one-hot labels."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.net(x)
        self.note(x, y, logits)
        return -(F.one_hot(y, CLASSES) * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


class NoneThenMean(Losing):
    """Takes the mean itself."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none").mean()


class ClassWeights(Plain):
    """Weighs the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0]))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        self.note(x, y, logits)
        return self.criterion(logits, y)


class ZeroHeadClassWeights(ClassWeights):
    """The same with a head of zeros, where the first step's loss is log K with and without weights."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)


class Smoothing(Losing):
    """Smooths the labels."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, label_smoothing=0.1)


class Summed(Losing):
    """Adds the losses of a batch up."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="sum")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02)


class Focal(Losing):
    """Weighs samples by how wrong they are."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, y, reduction="none")
        return ((1 - (-losses).exp()) ** 2 * losses).mean()


class AddedL2(Losing):
    """Adds the squared weights."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y) + 0.01 * sum(weight.square().sum() for weight in self.parameters())


class OneHotBCE(Losing):
    """One sigmoid a class, against the one-hot labels."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, F.one_hot(y, CLASSES).float())


class SmoothedBCE(Losing):
    """One sigmoid a class, against smoothed one-hot labels."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, 0.9 * F.one_hot(y, CLASSES).float() + 0.1 / CLASSES)


# -- several losses ------------------------------------------------------------------------------------


class Decoder(BackboneAndHead):
    """A second part reconstructs the input."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(HIDDEN, FEATURES)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        features = self.backbone(x)
        again = F.mse_loss(self.decoder(features), x[:, 1:])
        logits = self.head(features)
        self.note(x, y, logits)
        return F.cross_entropy(logits, y) + 0.1 * again


class TwoHeads(Style):
    """Two heads of equal standing, each with a cross entropy against the same labels."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.left, self.right = backbone(), head(), head()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        features = self.backbone(x)
        left, right = self.left(features), self.right(features)
        self.note(x, y, left)
        return F.cross_entropy(left, y) + F.cross_entropy(right, y)


class CoarseLabels(BackboneAndHead):
    """A second head tells the first class from the others, and its loss comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = head(2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        features = self.backbone(x)
        coarse = F.cross_entropy(self.coarse(features), y.clamp(max=1))
        logits = self.head(features)
        self.note(x, y, logits)
        return F.cross_entropy(logits, y) + 0.1 * coarse


class DeepSupervision(BackboneAndHead):
    """An earlier layer is supervised, first; the main output is the module's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.backbone(x))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        early = F.cross_entropy(self.early(x[:, 1:]), y)
        logits = self(x)
        self.note(x, y, logits)
        return 0.4 * early + F.cross_entropy(logits, y)


# -- mixing inside the step ----------------------------------------------------------------------------


class MixUpPairs(Plain):
    """MixUp in every step, as two cross entropies."""

    def mixes(self, batch_idx: int) -> bool:
        return True

    def mixed_loss(self, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
        logits = self(0.7 * x + 0.3 * x[other])
        return 0.7 * F.cross_entropy(logits, y) + 0.3 * F.cross_entropy(logits, y[other])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        if self.mixes(batch_idx):
            return self.mixed_loss(x, y, torch.randperm(len(x)))
        logits = self(x)
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


class MixUpSoft(MixUpPairs):
    """MixUp in every step, as one cross entropy against distributions."""

    def mixed_loss(self, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
        one_hot = F.one_hot(y, CLASSES).float()
        return F.cross_entropy(self(0.7 * x + 0.3 * x[other]), 0.7 * one_hot + 0.3 * one_hot[other])


class MixUpSometimes(MixUpPairs):
    """MixUp in every other step; the first one is not mixed."""

    def mixes(self, batch_idx: int) -> bool:
        return batch_idx % 2 == 1


class MixUpSoftSometimes(MixUpSoft):
    """MixUp in every other step; the first one is mixed."""

    def mixes(self, batch_idx: int) -> bool:
        return batch_idx % 2 == 0


# -- edits in place ------------------------------------------------------------------------------------


class EditedBefore(Plain):
    """Makes one class less likely, in place, before the loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        self.note(x, y, logits)
        logits[:, 0] -= 2.0
        return F.cross_entropy(logits, y)


class EditedInForward(Plain):
    """The same network with the edit as part of its forward."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x) - torch.tensor([2.0, 0.0, 0.0])


class EditedAfter(Plain):
    """Turns its logits into something else, in place, after the loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        self.note(x, y, logits)
        loss = F.cross_entropy(logits, y)
        logits.detach().neg_().exp_()
        return loss


# -- optimization --------------------------------------------------------------------------------------


class Manual(ByNetwork):
    """Optimizes by itself and returns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manually(self.regularized(super().training_step(batch, batch_idx)), self.optimizers())


class TwoOptimizers(ByNetwork):
    """A critic learns to tell samples from noise, before the classifier learns, each with an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(FEATURES, 1)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        critics, classifiers = self.optimizers()
        x, _ = batch
        true, made = self.critic(x[:, 1:]), self.critic(torch.randn(len(x), FEATURES))
        real = F.binary_cross_entropy_with_logits(true, torch.ones_like(true))
        self.manually(real + F.binary_cross_entropy_with_logits(made, torch.zeros_like(made)), critics)
        self.manually(self.regularized(super().training_step(batch, batch_idx)), classifiers)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.2) for part in (self.critic, self.net)]


class SAM(Plain):
    """Sharpness-aware: a second forward and backward at neighboring weights in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.regularized(super().training_step(batch, batch_idx)))
        with torch.no_grad():
            moves = [0.1 * weight.grad for weight in self.parameters()]
            torch._foreach_add_(list(self.parameters()), moves)
        optimizer.zero_grad()
        x, y = batch
        self.manual_backward(F.cross_entropy(self(x), y))
        with torch.no_grad():
            torch._foreach_sub_(list(self.parameters()), moves)
        optimizer.step()


class LBFGS(Plain):
    """Its optimizer evaluates every batch several times."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.05, max_iter=3)


class Checkpointed(ByNetwork):
    """Computes its activations again in the backward pass."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = checkpoint(self.net, x, use_reentrant=False)
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


# -- compiled ------------------------------------------------------------------------------------------


class CompiledLater(Plain):
    """The textbook, for the whole module to be compiled."""


class CompiledNetwork(ByNetwork):
    """Its network is a compiled one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


class CompiledInPlace(ByNetwork):
    """Its network was told to compile itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net.compile(backend="eager")


class CompiledMethod(Style):
    """One of its methods is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.classify = torch.compile(self.classify, backend="eager")

    def classify(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.classify(x)
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


# -- copies inside the step ----------------------------------------------------------------------------


class CopiesItself(Plain):
    """Asks a copy of itself first, whose weights have moved."""

    def another(self) -> Any:
        return copy.deepcopy(self)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, _ = batch
        teacher = self.another()
        with torch.no_grad():
            for weight in teacher.parameters():
                weight.add_(0.5)
            said = teacher(x)
        assert type(teacher) is type(self)
        torch.testing.assert_close(said, by_hand(teacher.net, x))
        assert not torch.allclose(said, by_hand(self.net, x))
        return super().training_step(batch, batch_idx)


class SavesItself(CopiesItself):
    """The copy went through a file."""

    def another(self) -> Any:
        file = io.BytesIO()
        torch.save(self, file)
        file.seek(0)
        return torch.load(file, weights_only=False)


# -- batches and labels --------------------------------------------------------------------------------


class TransferHook(Plain):
    """A hook after the transfer maps the labels."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return x, y // 10 - 1


class MergedLabels(Plain):
    """The loss has coarser labels than the batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return super().training_step((x, y // 2), batch_idx)


class GraphStyle(Plain):
    """Its batch has attributes, and is given to the forward whole."""

    def forward(self, batch: Any) -> Any:
        return self.net(batch.x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self(batch)
        self.note(batch.x, batch.y, logits)
        return F.cross_entropy(logits, batch.y)


class ThreeParts(Plain):
    """The labels are the last of three parts."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, _, y = batch
        return super().training_step((x, y), batch_idx)


class SpeciesStyle(Plain):
    """The labels have an unusual key."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["pixels"], batch["species"]), batch_idx)


# -- what is not supported -----------------------------------------------------------------------------


class MultiLabel(Losing):
    """Several labels a sample."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, y)


class FlatTokens(Style):
    """A label for every token; the loss sees tokens as samples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(4 * CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.net(x).reshape(len(x), 4, CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x).reshape(-1, CLASSES), y.reshape(-1))


class Tokens(FlatTokens):
    """A label for every token; the loss sees [B, K, T]."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x).transpose(1, 2), y)


class Regression(Style):
    """A number a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(1)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)[:, 0]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.mse_loss(self(x), y)


# -- validation ----------------------------------------------------------------------------------------


class ValidationAccuracy(ByNetwork):
    """Validates without a loss."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self.net(x)
        self.note(x, y, logits)
        self.log("val_acc", (logits.argmax(dim=1) == y).float().mean(), batch_size=len(y))


class ValidationLoss(BackboneAndHead):
    """Logs the loss of validation and returns nothing."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=len(batch[1]))


# -- the same in pytorch_lightning ---------------------------------------------------------------------


class OtherStyle(Notes, pytorch_lightning.LightningModule):
    """The base of styles in pytorch_lightning."""


class OtherByNetwork(OtherStyle):
    """Calls its network and has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    training_step = ByNetwork.training_step


class OtherPlain(OtherByNetwork):
    """The textbook."""

    forward, training_step = Plain.forward, Plain.training_step


class OtherLogSoftmax(OtherByNetwork):
    """Its forward says log-probabilities."""

    forward, training_step = LogSoftmaxInForward.forward, LogSoftmaxInForward.training_step


class OtherUnderKey(OtherStyle):
    """Its forward returns a dict with the logits under a key of its own."""

    key = "out"

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = backbone(), head()

    forward, training_step = UnderKey.forward, UnderKey.training_step


class OtherManual(OtherByNetwork):
    """Optimizes by itself and returns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manually(self.regularized(super().training_step(batch, batch_idx)), self.optimizers())


class OtherValidation(OtherByNetwork):
    """Validates without a loss."""

    validation_step = ValidationAccuracy.validation_step


class OtherSmoothing(OtherPlain):
    """Smooths the labels."""

    training_step, loss = Losing.training_step, Smoothing.loss


class Predicts(ByNetwork):
    """Predicts with its network."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch[0]).softmax(dim=1)


# -- options -------------------------------------------------------------------------------------------


class CalledTwice(ByNetwork):
    """Its network sees two views; the second one counts."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        first, second = self.net(1.5 * x), self.net(x)
        self.note(x, y, second)
        return F.cross_entropy(first, y) + F.cross_entropy(second, y)


class ReturnsScores(ByNetwork):
    """Its step returns what it said, as a part of something."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        scores = self.net(x) / 0.7
        self.note(x, y, scores)
        return {"loss": F.cross_entropy(scores, y), "scores": scores}


class DeepOutput(ByNetwork):
    """Its forward returns the logits deep inside."""

    def forward(self, x: Tensor) -> Any:
        return {"deep": [None, {"scores": self.net(x)}]}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        scores = self(x)["deep"][1]["scores"]
        self.note(x, y, scores)
        return F.cross_entropy(scores, y)


class SaysWhichHead(TwoHeads):
    """Says in its class which of its two heads counts; the notes have the left one."""

    flip_source = StepSource(logits_from="left")


class SaysTheOtherHead(TwoHeads):
    """Says that the right head counts."""

    flip_source = StepSource(logits_from="right")


# -- silence -------------------------------------------------------------------------------------------


class Idle(ByNetwork):
    """Skips every batch."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None
