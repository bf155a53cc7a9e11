"""What only a GPU can tell: bits, speed, memory, and a comparison of the method's arms.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --pieces throughput,memory --time-limit 550
    for k in 0 1 2 3 4 5; do
      python benchmarks/gpu.py --pieces study --num-shards 6 --shard $k --time-limit 550 &
    done; wait
    python benchmarks/gpu.py --device cpu --tiny          a smoke test, no measurement

The work is cut into units of a few minutes at most. Each runs in a process of its own and leaves
one JSON, so the command goes on where it stopped: a unit is left out when its JSON of the same
code, parameters, versions and device is there. `summary.json` joins them, and its table is
printed. With --time-limit nothing is started that would not end in time. Processes with a shard
each share a device; that is for bits, memory and study, whose results do not depend on the time
that they take.

bits        every backbone with ACP and CAT: training twice gives the same weights and losses;
            `descry train` and `evaluate` twice write the same files
throughput  training steps a second against torchvision's RetinaNet-R50 and timm's Swin-T in it,
            taking turns; gains of channels_last, fused AdamW, torch.compile, and the price of
            determinism; how much of the device's matrix rate a ViT-B reaches
memory      largest allocated memory of the same steps
study       baseline, wider, ACP, CAT, copies and full on BCCD, three seeds, test AP

Needed are torch, torchvision, numpy and timm; `descry train` and the study also need what training
needs (docs/how-to/training.md has the list). A unit that lacks a package says so and is left out.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation

from gpu_pieces.command import main

if __name__ == "__main__":
    sys.exit(main(__doc__.splitlines()[0]))
