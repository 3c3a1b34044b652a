"""Add two callbacks to a Trainer and ask which training labels to look at first. Takes a few seconds."""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip import FlipTracker, PredictionHistory, read_history


class LitDigits(pl.LightningModule):  # any LightningModule, nothing in it knows of lightning-flip
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


pl.seed_everything(0)
digits = load_digits()
wrong = [150, 450, 750, 1050, 1350]
digits.target[wrong] = (digits.target[wrong] + 3) % 10  # five wrong labels, to see whether they are found
data = TensorDataset(torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target))

callbacks = [PredictionHistory("runs/quickstart", overwrite=True), FlipTracker(train=True)]
trainer = pl.Trainer(max_epochs=10, accelerator="cpu", callbacks=callbacks, logger=False, enable_checkpointing=False)
trainer.fit(LitDigits(), DataLoader(data, batch_size=64, shuffle=True))

print(f"share of training images unlearned again: {trainer.callback_metrics['train_flipping_error']:.2%}")
for suspect in read_history("runs/quickstart").suspects(5).to_pylist():
    print("image {index} is labelled {target}: right in {times_right} of {visits} epochs".format(**suspect))
