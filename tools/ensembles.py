"""What networks of several recipes score together, out of fold.

    SALT_TGS_DATA=PATH python tools/ensembles.py

For the committed folds of `best`, `medium` and `growing-half`: each tile is marked by the networks that never saw it, of every recipe
alone and of every set of recipes, on the folds that all of the set have. The threshold is one half. Writes nbs/results/ensembles.json;
some four minutes of two threads.
"""
import json
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from salt_tgs.data import find_data, load_data
from salt_tgs.ensemble import Ensemble, to_masks
from salt_tgs.losses import score_se, tile_scores
from salt_tgs.model import _keys, write_atomically
from salt_tgs.submission import _read_run, gather_folds, make_folds
from salt_tgs.training import commit

ROOT = Path(__file__).parent.parent
NAMES = ('best', 'medium', 'growing-half')


def main():
    start = time.perf_counter()
    tiles = load_data(find_data()).train
    folds = make_folds(tiles, _read_run(ROOT/'weights'/NAMES[0])[1])
    logits = {}
    for name in NAMES:
        nets = gather_folds(ROOT/'weights'/name/'networks', _read_run(ROOT/'weights'/name)[1])[0]
        for k, members in nets.items():
            unseen = tiles[folds == k]
            assert not any(set(_keys(m.meta)) & set(unseen[unseen.images.max((1, 2)) > 0].keys()) for m in members)
            p = Ensemble(members).predict(unseen.images).astype(float).clip(1e-7, 1 - 1e-7)
            logits[name, k] = np.log(p / (1 - p))
    rows = []
    for size in range(1, len(NAMES) + 1):
        for together in combinations(NAMES, size):
            common = [k for k in range(folds.max() + 1) if all((n, k) in logits for n in (*together, NAMES[0]))]
            score = lambda names: np.concatenate([tile_scores(to_masks(1 / (1 + np.exp(-np.mean([logits[n, k] for n in names], 0)))), tiles.masks[folds == k]) for k in common])
            scores, gain = score(together), score(together) - score(NAMES[:1])
            rows.append(dict(networks=list(together), folds=common, tiles=len(scores), mean=scores.mean(), se=score_se(scores), gain=gain.mean(), gain_se=score_se(gain),
                             gain_by_fold=[float(g.mean()) for g in np.split(gain, np.cumsum([(folds == k).sum() for k in common])[:-1])]))
            print(rows[-1], flush=True)
    about = dict(against=NAMES[0], device='cpu', threads=torch.get_num_threads(), seconds=round(time.perf_counter() - start), commit=commit())
    write_atomically(ROOT/'nbs'/'results'/'ensembles.json', (json.dumps(dict(rows=rows) | about, indent=1) + '\n').encode())


if __name__ == '__main__': main()
