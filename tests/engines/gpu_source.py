"""A process that publishes tensors on a GPU through NIXL: `python gpu_source.py SEED`.

The first line that it is told is the sizes in bytes, in JSON; it prints the descriptor as JSON. Then each line that it is told is answered by one: the exporter's load.
"""

from __future__ import annotations

import json
import os
import sys

import torch

from peerload.engines.base import DeviceMemory, Region
from peerload.plugins import open_engine
from peerload.testing.engine_worker import describe

seed, sizes = int(sys.argv[1]), json.loads(sys.stdin.readline())
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
torch.manual_seed(seed)
whole = torch.randint(0, 256, (sum(sizes),), dtype=torch.uint8).cuda()
torch.cuda.synchronize()
regions, at = [], 0
for size in sizes:
    part = whole[at : at + size]
    regions.append(Region(DeviceMemory(part.data_ptr(), size, 0, part)))
    at += size
exporter = open_engine("nixl").exporter("127.0.0.1")
published = exporter.publish(regions)
print(json.dumps(describe(published.descriptor)), file=answers, flush=True)
for _ in sys.stdin:
    print(json.dumps(exporter.load()), file=answers, flush=True)
answers.flush()
os._exit(0)
