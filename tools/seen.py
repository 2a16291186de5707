"""How well networks know the tiles that they were trained on: the score by size, beside that on tiles they never saw.

    SALT_TGS_DATA=PATH python tools/seen.py

For the committed folds of `medium`, and the same folds of `best`, its recipe with more time: the network of each fold marks
the tiles of the next one, which it has seen; the network of that one, which has not, marked them out of fold.
Writes nbs/results/seen.json; four minutes of one thread.
"""
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from salt_tgs.data import Tiles, find_data, load_data
from salt_tgs.ensemble import Ensemble
from salt_tgs.losses import score_se, tile_scores
from salt_tgs.model import _keys, write_atomically
from salt_tgs.submission import _read_run, by_size, gather_folds, make_folds
from salt_tgs.training import commit

ROOT = Path(__file__).parent.parent


def both(name: str, parts: dict[int, Tiles]) -> dict[str, np.ndarray]: # 'seen' and 'unseen': the score of each tile
    "How a run's networks do on tiles that they were trained on, by fold of the network, and how its others did on the same."
    run = ROOT/'weights'/name
    nets, unseen = gather_folds(run/'networks', _read_run(run)[1])[0], pd.read_csv(ROOT/'nbs'/'results'/'oof'/f'{name}.csv', index_col='id').score
    for k, part in parts.items(): assert set(part.keys()) <= set(_keys(nets[k][0].meta))
    return dict(seen=np.concatenate([tile_scores(Ensemble(nets[k]).masks(part.images), part.masks) for k, part in parts.items()]),
                unseen=np.concatenate([unseen[part.ids].values for part in parts.values()]))


def main():
    start = time.perf_counter()
    tiles, recipe = load_data(find_data()).train, _read_run(ROOT/'weights'/'medium')[1]
    folds, lit, ks = make_folds(tiles, recipe), tiles.images.max((1, 2)) > 0, list(gather_folds(ROOT/'weights'/'medium'/'networks', recipe)[0])
    parts = {k: tiles[lit & (folds == ks[(i + 1) % len(ks)])] for i, k in enumerate(ks)}
    scores, masks = {name: both(name, parts) for name in ('medium', 'best')}, np.concatenate([p.masks for p in parts.values()])
    of = lambda s: dict(mean=s.mean(), se=score_se(s))
    runs = {name: {k: of(s) | dict(by_size={size: [int(r.tiles), float(r.score)] for size, r in by_size(s, masks).iterrows()}) for k, s in sides.items()} for name, sides in scores.items()}
    gain = {k: scores['best'][k] - scores['medium'][k] for k in ('seen', 'unseen')}
    about = dict(gain={k: of(d) for k, d in (gain | dict(lost=gain['seen'] - gain['unseen'])).items()}, tiles=len(masks), device='cpu', threads=torch.get_num_threads(), seconds=round(time.perf_counter() - start), commit=commit())
    write_atomically(ROOT/'nbs'/'results'/'seen.json', (json.dumps(dict(runs=runs) | about, indent=1) + '\n').encode())
    print(json.dumps(about, indent=1))


if __name__ == '__main__': main()
