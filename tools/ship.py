"""Take what must last out of a run's folder.

`python tools/ship.py RUN [--fold 0]` makes the network that comes with the package: one fold's network, in half precision, in
`salt_tgs/weights`; `ensemble.json` says how the recipe scored on all folds of the run and how this very network scored on the
tiles that it never saw.

`python tools/ship.py RUN --teachers weights/NAME` keeps all finished folds, one network each, in half precision, as a run that
`salt-tgs train --teacher weights/NAME` can go on from.
"""
import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from salt_tgs.ensemble import Ensemble
from salt_tgs.losses import score_se
from salt_tgs.model import save_network, write_atomically
from salt_tgs.submission import gather_folds
from salt_tgs.training import Recipe, Stage

WEIGHTS = Path(__file__).resolve().parent.parent/'salt_tgs'/'weights'


def ship(run: Path, recipe: Recipe, fold: int, metrics: dict) -> Path:
    "Write one fold's network into the package."
    oof = pd.read_csv(run/'results'/'oof'/f'{run.name}.csv')
    own = oof.score[oof.fold == fold].values
    net, = gather_folds(run/'networks', recipe)[0][fold]
    print(f'fold {fold}: {own.mean():.4f} +/- {score_se(own):.4f} on {len(own)} unseen tiles')
    return Ensemble([net], metrics['threshold']).save(
        WEIGHTS, torch.float16, official=metrics['official'], fold=fold, own=dict(mean=float(np.mean(own)), se=score_se(own), n=len(own)))


def keep(run: Path, recipe: Recipe, folder: Path) -> Path:
    "Write all finished folds as a small run, beside those that are there."
    about = json.loads((run/'run.json').read_text()) | dict(recipe=asdict(recipe))
    if folder.resolve() == run: raise SystemExit(f'{folder}: this is the run itself')
    if (folder/'run.json').exists() and json.loads((folder/'run.json').read_text()) != json.loads(json.dumps(about)): raise SystemExit(f'{folder}: holds the folds of another run')
    for fold, nets in gather_folds(run/'networks', recipe)[0].items():
        log = json.loads((run/'networks'/f'fold{fold}.json').read_text())
        paths = [save_network(folder/'networks'/f'fold{fold}-{i}', net, torch.float16).name for i, net in enumerate(nets)]
        write_atomically(folder/'networks'/f'fold{fold}.json', json.dumps(log | dict(paths=paths)).encode())
    write_atomically(folder/'run.json', json.dumps(about, indent=1).encode())
    return folder


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('run', type=Path)
    p.add_argument('--fold', type=int, default=0)
    p.add_argument('--teachers', type=Path, metavar='DIR')
    args = p.parse_args()
    run = args.run.resolve()
    recipe = json.loads((run/'run.json').read_text())['recipe']
    recipe = Recipe(**recipe | dict(stages=[Stage(**s) for s in recipe['stages']]))
    folder = keep(run, recipe, args.teachers) if args.teachers else ship(run, recipe, args.fold, json.loads((run/'metrics.json').read_text()))
    print(f"{folder}: {sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 1e6:.1f} MB")


if __name__ == '__main__': main()
