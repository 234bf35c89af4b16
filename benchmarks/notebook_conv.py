"""What the second notebook should have shown, on trained runs of the recipes notebook-conv and
notebook-conv-full.

    lowerbound train --config notebook-conv --out runs/conv
    lowerbound train --config notebook-conv-full --out runs/conv-full
    python benchmarks/notebook_conv.py runs/conv runs/conv-full

For each run: -ELBO on the test split with its standard error; the difference of sampled and
closed-form KL in standard errors; the smallest closed-form KL of any example; and the learned scale
against the root mean squared residual, its optimum at fixed networks, measured on the data it was
trained on.
"""

from __future__ import annotations

import math
import sys

import torch

import lowerbound as lb
from lowerbound.runs.opened import own_data
from lowerbound.runs.run import Run

EXAMPLES = 10_000  # of the training split, for the scale


def check(folder: str) -> bool:
    run = Run(folder)
    model, data = run.model(), own_data(run)
    torch.manual_seed(0)
    kls, differences = [], []
    with torch.no_grad():
        for x in data.examples("test").split(500):
            draw = model(x)
            kls.append(draw.rate_by("closed_form"))
            differences.append(draw.rate_by("sampled") - kls[-1])
        kl, difference = torch.cat(kls), torch.cat(differences)
        squares, count = 0.0, 0
        for x in data.examples("train")[:EXAMPLES].split(500):
            residual = x - model(x).px.mean[0]
            squares, count = (
                squares + float(residual.double().pow(2).sum()),
                count + residual.numel(),
            )
    z = float(difference.mean() / (difference.std() / math.sqrt(len(difference))))
    scale, best = model.likelihood.log_scale.exp().item(), math.sqrt(squares / count)
    elbo = lb.evaluate(model, data, samples=10).elbo
    print(f"{folder}: {data}")
    print(f"  -ELBO                            {elbo.times(-1, 'nats')}")
    print(
        f"  sampled less closed-form KL      {float(difference.mean()):+.3f} nats, {z:+.1f} "
        "standard errors"
    )
    print(f"  closed-form KL, mean and least   {float(kl.mean()):.2f}, {float(kl.min()):.2f} nats")
    print(f"  learned scale, r.m.s. residual   {scale:.5f}, {best:.5f} ({scale / best - 1:+.2%})")
    return abs(z) <= 4 and float(kl.min()) >= 0 and abs(scale / best - 1) <= 0.02


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(not all(list(map(check, sys.argv[1:]))))
