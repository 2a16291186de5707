"""Does a look pay where the network is unsure? The experiment of `07_review`, into `nbs/results/active.json`.

`SALT_TGS_DATA=... python tools/active.py --seeds 0 1 2` takes about twenty minutes of one thread a seed; a seed that is in the file is not run
again. For each seed the labelled tiles are dealt into five folds as for every recipe. A network learns from one fold; three are a
pool, whose masks nobody knows; the fifth is the exam. 100 tiles of the pool are looked at, that is, given their true masks: those
that the page would show first, or 100 by lot. The network goes on, with half of each batch from those and half from the fold that
it knows; and, as a third, with that fold alone, for about as many steps (whole epochs). All are scored on the exam, at one half,
after as many epochs as were fixed beforehand.
"""
import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from salt_tgs.data import coverage_folds, find_data, load_data
from salt_tgs.ensemble import Ensemble, average_weights
from salt_tgs.losses import score_se, tile_scores
from salt_tgs.model import write_atomically
from salt_tgs.review import worth_a_look
from salt_tgs.training import RECIPES, Stage, commit, train_fold

BASE = replace(RECIPES['medium'], name='one-fold', stages=(Stage(128, 'bce', 3, 2e-3, wd=5e-2), Stage(128, 'symmetric_lovasz', 10, 2e-3, wd=5e-2)), snapshots=3)
GO_ON = replace(BASE, name='looked', goes_on=True, taught=.5, stages=(Stage(128, 'symmetric_lovasz', 12, 1e-3, wd=5e-2),))


def one_seed(seed: int, tiles, looks: int) -> dict:
    "All that a seed finds: scores of each tile of the exam, for each arm."
    folds, began = coverage_folds(tiles.masks.mean((1, 2)), tiles.depths, tiles.ids, 5), time.perf_counter()
    known, exam = tiles[folds == seed % 5], tiles[folds == (seed + 4) % 5]
    pool = tiles[~np.isin(folds, [seed % 5, (seed + 4) % 5])]
    known, pool = (t[t.images.max((1, 2)) > 0] for t in (known, pool))
    with tempfile.TemporaryDirectory() as tmp:
        base = average_weights(train_fold(known, None, BASE, Path(tmp)/'base', seed=seed)[0])
        probs, spread = Ensemble([base]).predict_spread(pool.images)
        first = np.argsort(-np.array([worth_a_look(p, s)['score'] for p, s in zip(probs, spread)]), kind='stable')[:looks]
        arms = {'unsure': first, 'by lot': np.random.default_rng(seed).choice(len(pool), looks, replace=False)}
        nets = {'before': base}
        for name, idx in arms.items(): nets[name] = average_weights(train_fold(pool[idx], None, GO_ON, Path(tmp)/name, seed=seed, start=base, pseudo=known)[0])
        nothing = replace(GO_ON, goes_on=True, taught=0., stages=(replace(GO_ON.stages[0], epochs=max(3, round(2 * GO_ON.stages[0].epochs * looks / len(known)))),))
        nets['nothing new'] = average_weights(train_fold(known, None, nothing, Path(tmp)/'nothing', seed=seed, start=base)[0])
    scores = {name: tile_scores(Ensemble([net]).masks(exam.images), exam.masks).round(1).tolist() for name, net in nets.items()}
    about = {name: dict(empty=float((~pool[idx].masks.any((1, 2))).mean()), base_score=float(tile_scores(Ensemble([base]).masks(pool[idx].images), pool[idx].masks).mean())) for name, idx in arms.items()}
    salt = exam.masks.any((1, 2))
    by_kind = {kind: dict(n=int(of.sum())) | {name: float(np.array(v)[of].mean().round(4)) for name, v in scores.items()} for kind, of in {'no salt': ~salt, 'salt': salt}.items()}
    return dict(seed=seed, exam=len(exam), looked_at=about, scores=scores, by_kind=by_kind, seconds=round(time.perf_counter() - began), threads=torch.get_num_threads(), commit=commit())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--looks', type=int, default=100)
    p.add_argument('--out', type=Path, default=Path(__file__).parent.parent/'nbs'/'results'/'active.json')
    a = p.parse_args()
    tiles = load_data(find_data()).train
    for seed in a.seeds:
        found = json.loads(a.out.read_text()) if a.out.exists() else dict(looks=a.looks, seeds=[])
        if any(s['seed'] == seed for s in found['seeds']): continue
        row = one_seed(seed, tiles, a.looks)
        found = json.loads(a.out.read_text()) if a.out.exists() else found  # another process may have added its own meanwhile
        found['seeds'] = sorted(found['seeds'] + [row], key=lambda s: s['seed'])
        write_atomically(a.out, (json.dumps(found) + '\n').encode())
        s = {k: np.array(v) for k, v in row['scores'].items()}
        print(seed, row['seconds'], {k: round(float(v.mean()), 4) for k, v in s.items()}, f"unsure over by lot {np.mean(s['unsure'] - s['by lot']):+.4f} +/- {score_se(s['unsure'] - s['by lot']):.4f}", flush=True)


if __name__ == '__main__': main()
