"""How well networks know the tiles that they were trained on: the score by size, beside that on tiles they never saw.

    SALT_TGS_DATA=PATH python tools/seen.py

For the committed folds of `medium`: the network of each fold marks the tiles of the next one, which it has seen.
For the first fold of `medium` and of `best`, the same recipe with more time: the tiles of fold 1, seen, and of fold 0, unseen.
Writes nbs/results/seen.json; two minutes of one thread.
"""
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from salt_tgs.data import find_data, load_data
from salt_tgs.ensemble import Ensemble
from salt_tgs.losses import score_se, tile_scores
from salt_tgs.model import _keys, write_atomically
from salt_tgs.submission import _read_run, by_size, gather_folds, make_folds
from salt_tgs.training import commit

ROOT = Path(__file__).parent.parent


def first(tiles, name, folds) -> dict: # 'seen' and 'unseen', each with tiles, mean and se
    "How a run's first network does on tiles that it was trained on, and on others."
    run = ROOT/'weights'/name
    net, = gather_folds(run/'networks', _read_run(run)[1])[0][0]
    lit = tiles.images.max((1, 2)) > 0
    seen, others = tiles[lit & (folds == 1)], tiles[lit & (folds == 0)]
    assert set(seen.keys()) <= set(_keys(net.meta))
    unseen = pd.read_csv(ROOT/'nbs'/'results'/'oof'/f'{name}.csv', index_col='id').score[others.ids].values
    return {k: dict(tiles=len(s), mean=s.mean(), se=score_se(s)) for k, s in dict(seen=tile_scores(Ensemble([net]).masks(seen.images), seen.masks), unseen=unseen).items()}


def main():
    start = time.perf_counter()
    tiles = load_data(find_data()).train
    recipe = _read_run(ROOT/'weights'/'medium')[1]
    nets = gather_folds(ROOT/'weights'/'medium'/'networks', recipe)[0]
    folds, unseen = make_folds(tiles, recipe), pd.read_csv(ROOT/'nbs'/'results'/'oof'/'medium.csv', index_col='id').score
    lit, scores, masks = tiles.images.max((1, 2)) > 0, dict(seen=[], unseen=[]), []
    for k in nets:
        part = tiles[lit & (folds == (k + 1) % len(nets))]
        assert set(part.keys()) <= set(_keys(nets[k][0].meta))
        scores['seen'].append(tile_scores(Ensemble(nets[k]).masks(part.images), part.masks))
        scores['unseen'].append(unseen[part.ids].values)
        masks.append(part.masks)
    scores, masks = {name: np.concatenate(s) for name, s in scores.items()}, np.concatenate(masks)
    table = {name: dict(mean=s.mean(), se=score_se(s), by_size={k: [int(r.tiles), float(r.score)] for k, r in by_size(s, masks).iterrows()}) for name, s in scores.items()}
    about = dict(first_fold={name: first(tiles, name, folds) for name in ('medium', 'best')}, run='medium', tiles=len(masks), device='cpu', threads=torch.get_num_threads(), seconds=round(time.perf_counter() - start), commit=commit())
    write_atomically(ROOT/'nbs'/'results'/'seen.json', (json.dumps(table | about, indent=1) + '\n').encode())
    print(json.dumps(table, indent=1))


if __name__ == '__main__': main()
