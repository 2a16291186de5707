"""Make the network that comes with the package from a run's folder: `python tools/ship.py RUN [--fold 0]`.

It takes one fold's network of a `salt-tgs train` run, writes it in half precision into `salt_tgs/weights`, and says in
`ensemble.json` how the recipe scored on all folds of the run and how this very network scored on the tiles that it never saw.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from salt_tgs.ensemble import Ensemble
from salt_tgs.losses import score_se
from salt_tgs.submission import gather_folds
from salt_tgs.training import RECIPES

WEIGHTS = Path(__file__).resolve().parent.parent/'salt_tgs'/'weights'


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('run', type=Path)
    p.add_argument('--fold', type=int, default=0)
    args = p.parse_args()
    metrics = json.loads((args.run/'metrics.json').read_text())
    oof = pd.read_csv(args.run/'results'/'oof'/f'{args.run.resolve().name}.csv')
    own = oof.score[oof.fold == args.fold].values
    net, = gather_folds(args.run/'networks', RECIPES[metrics['settings']['recipe']['name']])[0][args.fold]
    folder = Ensemble([net], metrics['threshold']).save(
        WEIGHTS, torch.float16, official=metrics['official'], fold=args.fold, own=dict(mean=float(np.mean(own)), se=score_se(own), n=len(own)))
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f'{folder}: {size / 1e6:.1f} MB; fold {args.fold}: {own.mean():.4f} +/- {score_se(own):.4f} on {len(own)} unseen tiles')


if __name__ == '__main__': main()
