"""What test_distributed runs in each of three processes: every message of
helpers/engine/distributed.py, checked by each.
"""

import torch

from helpers.engine import distributed
from helpers.engine.distributed import (
    add_gradients,
    add_numbers,
    furthest,
    gather_rows,
    largest_numbers,
    own_rows,
    process_group,
)

with process_group(torch.device("cpu")):
    rank, whole = distributed.rank(), torch.arange(42.0).view(6, 7)
    own = list(own_rows(6))
    assert own == [rank, rank + 3]
    assert torch.equal(gather_rows(whole[own]), whole)
    assert torch.equal(gather_rows(whole[own, 0]), whole[:, 0])
    assert torch.equal(gather_rows(whole[own] % 2 == 0), whole % 2 == 0)
    ragged = gather_rows(whole[own, : 3 + rank].long(), fill=-1)  # the longest has 5 columns
    assert ragged[0].tolist() == [0, 1, 2, -1, -1] and ragged[5].tolist() == [35, 36, 37, 38, 39]
    assert add_numbers([1.0, rank]) == [3.0, 3.0]
    assert largest_numbers([-1.0, rank]) == [-1.0, 2.0]
    a, b = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(3))
    a.grad = torch.full((2, 2), rank + 1.0)
    b.grad = torch.ones(3) if rank == 1 else None
    add_gradients([a, b])
    assert torch.equal(a.grad, torch.full((2, 2), 6.0)) and torch.equal(b.grad, torch.ones(3))
    assert furthest({"step": 5} if rank == 1 else None, lambda found: found["step"]) == {"step": 5}
    assert furthest({"step": rank}, lambda found: found["step"]) == {"step": 2}
    assert furthest(None, float) is None
    distributed.barrier()
    print("all right", flush=True)
