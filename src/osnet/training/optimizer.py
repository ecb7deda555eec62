"""Optimisers by name, and the moving average of weights."""

from copy import deepcopy
from typing import Any

import torch

from osnet.training.recipe import Recipe
from osnet.training.task import Task


class Average:
    """An exponential moving average of all tensors of a task.

    Args:
        task: the task whose tensors are averaged.
        memory: share of the old average that is kept at each step, from 0 to less than 1; 0 switches averaging off.
    """

    def __init__(self, task: Task, memory: float) -> None:
        self.memory = memory
        self.state = {k: v.detach().clone() for k, v in task.state_dict().items()} if memory else {}

    def update(self, task: Task) -> None:
        """Update the average with the weights after an optimiser step."""
        for key, value in task.state_dict().items() if self.memory else ():
            if value.is_floating_point():
                self.state[key].lerp_(value.detach(), 1 - self.memory)
            else:
                self.state[key].copy_(value)

    def apply_to(self, task: Task) -> Task:
        """A copy of the task in eval mode, with the averaged weights if averaging is on."""
        copy = deepcopy(task)
        if self.state:
            copy.load_state_dict(self.state)
        return copy.eval()


def make_optimizer(recipe: Recipe, task: Task) -> torch.optim.Optimizer:
    """Make the recipe's optimiser. It has one parameter group for the network and one for the heads."""
    head = [p for name, p in task.named_parameters() if not name.startswith("network.") and p.requires_grad]
    groups = [
        {"params": list(task.network.parameters()), "factor": recipe.backbone_lr_factor},
        {"params": head, "factor": 1.0},
    ]
    shared: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **shared)
    betas = (recipe.momentum, 0.999)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=betas, **shared)
    return torch.optim.Adam(groups, betas=betas, amsgrad=recipe.optimizer == "amsgrad", **shared)
