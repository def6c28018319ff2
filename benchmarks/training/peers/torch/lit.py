"""Lightning: its Trainer, DDP with several processes, the same DataLoader as torchrun's."""

from __future__ import annotations

import time
import warnings

import lightning
import torch
from common import PLAN, Mlp, optimizer, rows, schedule, write_result
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler, TensorDataset

warnings.filterwarnings("ignore")
torch.set_num_threads(1)


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Mlp()
        self.seconds: list[float] = []

    def training_step(self, batch: tuple, number: int) -> torch.Tensor:
        numbers, codes, labels = batch
        return nn.functional.binary_cross_entropy_with_logits(self.model(numbers, codes), labels)

    def configure_optimizers(self) -> dict:
        adamw = optimizer(self)
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule(adamw, steps), "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        self.seconds.append(time.perf_counter() - self.began)


class Data(lightning.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.dataset: Dataset = TensorDataset(*rows())

    def train_dataloader(self) -> DataLoader:
        size = PLAN["workers"]
        sampler = DistributedSampler(self.dataset) if size > 1 else RandomSampler(self.dataset)
        return DataLoader(
            self.dataset, sampler=BatchSampler(sampler, PLAN["batch_size"] // size, False), batch_size=None
        )


lightning.seed_everything(0, verbose=False)
module, data = Module(), Data()
trainer = lightning.Trainer(
    max_epochs=PLAN["epochs"],
    accelerator="cpu",
    devices=PLAN["workers"],
    strategy="ddp" if PLAN["workers"] > 1 else "auto",
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    use_distributed_sampler=False,
)
trainer.fit(module, data)
if trainer.is_global_zero:
    write_result(module.seconds, len(data.dataset))
