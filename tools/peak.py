"""What it gains to leave a tile empty where nothing in it is sure: the score by the highest probability that a mask must reach.

    SALT_TGS_DATA=PATH python tools/peak.py

For the committed networks, out of fold, at a threshold of one half. `after` takes for each fold of `best` the peak that is best on its
other folds; `peak`, the one that is best on all of them, is the package's (`tools/ship.py` writes it there); `others` has what that
one gains for networks that had no say in it, on tiles that had. Writes nbs/results/peak.json; four minutes of one thread.
"""
import json
import time
from pathlib import Path

import numpy as np
import torch

from salt_tgs.data import Tiles, find_data, load_data
from salt_tgs.ensemble import Ensemble, to_masks
from salt_tgs.losses import score_se, tile_scores
from salt_tgs.model import write_atomically
from salt_tgs.submission import _read_run, gather_folds, make_folds
from salt_tgs.training import commit

ROOT = Path(__file__).parent.parent
PEAKS = [.5, .52, .54, .56, .58, .6, .62, .64, .66, .68, .7, .75, .8]  # the first is the threshold, so it changes nothing


def scores(tiles: Tiles, name: str) -> tuple[np.ndarray, np.ndarray]: # shapes (peaks, n) and (n,)
    "The score of each tile of a kept run by the peak, and the tile's fold."
    run = ROOT/'weights'/name
    recipe = _read_run(run)[1]
    nets, folds = gather_folds(run/'networks', recipe)[0], make_folds(tiles, recipe)
    rows, where = [], []
    for k, members in nets.items():
        part = tiles[folds == k]
        probs = Ensemble(members).predict(part.images)
        rows.append([tile_scores(to_masks(probs, peak=p), part.masks) for p in PEAKS])
        where.append(np.full(len(part), k))
    return np.concatenate(rows, 1), np.concatenate(where)


def main():
    start = time.perf_counter()
    tiles = load_data(find_data()).train
    mean = lambda values: dict(mean=float(values.mean()), se=float(score_se(values)))
    score, folds = scores(tiles, 'best')
    folds_of = make_folds(tiles, _read_run(ROOT/'weights'/'best')[1])
    chosen = {int(k): int(score[:, folds != k].mean(1).argmax()) for k in np.unique(folds)}
    crossed = np.concatenate([score[i, folds == k] for k, i in chosen.items()])
    before = np.concatenate([score[0, folds == k] for k in chosen])
    gain = score - score[0]
    best = int(gain.mean(1).argmax())
    empty = ~np.concatenate([tiles.masks[folds_of == k] for k in chosen]).any((1, 2))
    others = {}
    for name in ('medium', 'growing-half'):
        other, _ = scores(tiles, name)
        others[name] = mean(other[best] - other[0])
    about = dict(run='best', tiles=gain.shape[1], before=mean(before), after=mean(crossed), gain=mean(crossed - before), peaks=PEAKS, by_peak=[mean(g) for g in gain], by_fold={int(k): [float(g) for g in gain[:, folds == k].mean(1)] for k in np.unique(folds)},
                 chosen={k: PEAKS[i] for k, i in chosen.items()}, peak=PEAKS[best], changed=int((gain[best] != 0).sum()), changed_empty=int((gain[best, empty] != 0).sum()), others=others,
                 device='cpu', threads=torch.get_num_threads(), seconds=round(time.perf_counter() - start), commit=commit())
    write_atomically(ROOT/'nbs'/'results'/'peak.json', (json.dumps(about, indent=1) + '\n').encode())
    print(json.dumps({k: about[k] for k in ('before', 'after', 'gain', 'chosen', 'peak', 'changed', 'changed_empty', 'others')}, indent=1))


if __name__ == '__main__': main()
