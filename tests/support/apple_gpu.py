"""A stand-in for an Apple GPU, on a CPU: tensors that say they are on "mps" and refuse float64."""

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, MPS = torch.device("cpu"), torch.device("mps")


class AppleTensor(Tensor):
    """A tensor that counts as one on the GPU."""


TYPES = {True: AppleTensor, False: Tensor}


def is_device(x) -> bool:
    return isinstance(x, (str, torch.device)) and str(x) in ("cpu", "mps")


class AppleGPU(TorchFunctionMode):
    """For `with`: results stay where their arguments are, or go to the device that a call names."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        leaves, kwargs = tree_leaves((args, kwargs)), kwargs or {}
        on_gpu = any(isinstance(x, AppleTensor) for x in leaves)
        if function == Tensor.device.__get__:
            return MPS if on_gpu else CPU
        named = [str(x) for x in leaves if is_device(x)]
        stays = named[-1] == "mps" if named else on_gpu and function is not Tensor.cpu
        args, kwargs = tree_map(lambda x: CPU if is_device(x) else x, (args, kwargs))

        def placed(x):
            if not isinstance(x, Tensor):
                return x
            if stays and x.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
            return x if isinstance(x, AppleTensor) == stays else x.as_subclass(TYPES[stays])

        return tree_map(placed, function(*args, **kwargs))


def to_apple_gpu(model: nn.Module) -> nn.Module:
    """The model with its weights on the stand-in, in place."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            moved = nn.Parameter(weight.detach().as_subclass(AppleTensor), weight.requires_grad)
            setattr(module, name, moved)
    return model
