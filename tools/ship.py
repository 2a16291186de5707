"""Take what must last out of a run's folder.

`python tools/ship.py RUN --folds weights/NAME` makes the network that comes with the package, in half precision, in `salt_tgs/weights`,
and its file for the engine, in eight bits, calibrated with unlabelled tiles. RUN is what `salt-tgs train --all-tiles` wrote, so that
nothing is left to score it with; NAME is a kept run that it went on from, or one of the same recipe, and `ensemble.json` says how its
tiles scored, by `nbs/results/oof/NAME.csv`. What the training cost goes to `nbs/results/all-tiles.csv`. Without RUN the network stays,
and only its scores are written anew, after further folds, and the peak of `nbs/results/peak.json`.

`python tools/ship.py RUN --teachers weights/NAME` keeps all finished folds, one network each, in half precision, as a run that
`salt-tgs train --start weights/NAME` can go on from.
"""
import argparse
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from salt_tgs.data import Tiles, find_data, load_data
from salt_tgs.engine import export_onnx, use_onnx
from salt_tgs.ensemble import Ensemble
from salt_tgs.model import save_network, write_atomically
from salt_tgs.submission import gather_folds, summarize_scores
from salt_tgs.training import Recipe

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS, RESULTS = ROOT/'salt_tgs'/'weights', ROOT/'nbs'/'results'


def official(name: str, recipe: Recipe, tiles: Tiles) -> dict:
    "What the folds of a kept run scored, as `ensemble.json` says it."
    table = pd.read_csv(RESULTS/'oof'/f'{name}.csv', index_col='id')
    return summarize_scores(table.score.to_numpy(), table.fold.to_numpy(), recipe.folds, tiles.masks[[tiles.ids.index(i) for i in table.index]])


def peak(name: str) -> float:
    "The highest probability that a mask must reach, chosen by the folds of the same run."
    about = json.loads((RESULTS/'peak.json').read_text())
    if about['run'] != name: raise SystemExit(f"{RESULTS/'peak.json'}: of the run {about['run']}, not of {name}; run tools/peak.py on that one")
    return about['peak']


def rescore(folds: Path) -> Path:
    "Say anew what the recipe of the package's network scored."
    about = json.loads((WEIGHTS/'ensemble.json').read_text())
    recipe = Recipe.read(json.loads((folds/'run.json').read_text())['recipe'])
    if (made := json.loads((WEIGHTS/'member00.json').read_text())['recipe']) != recipe.name: raise SystemExit(f"{folds}: of the recipe {recipe.name}, the package's network of {made}")
    write_atomically(WEIGHTS/'ensemble.json', (json.dumps(about | dict(peak=peak(folds.name), official=official(folds.name, recipe, load_data(find_data()).train)), indent=1) + '\n').encode())
    return WEIGHTS


def ship(run: Path, folds: Path) -> Path:
    "Write the network of all tiles into the package."
    ensemble = Ensemble.load(run/'ensemble')
    if len(ensemble.members) > 1: raise SystemExit(f'{run}: {len(ensemble.members)} networks, but the package has room for one')
    before = ensemble.members[0].meta['started_from']['sha256']
    data = load_data(find_data())
    if data.train.sha256() != json.loads((run/'run.json').read_text())['data']: raise SystemExit(f'{run}: trained on other data than are found here; SALT_TGS_DATA names the folder')
    recipes = [json.loads((r/'run.json').read_text())['recipe'] for r in (run, folds)]
    if recipes[0] != recipes[1] and before not in {n.meta['sha256'] for nets in gather_folds(folds/'networks', Recipe.read(recipes[1]))[0].values() for n in nets}: raise SystemExit(f'{run}: neither of the recipe of {folds} nor gone on from one of its networks')
    ensemble.peak = peak(folds.name)
    ensemble.save(WEIGHTS, torch.float16, official=official(folds.name, Recipe.read(recipes[1]), data.train))
    write_atomically(RESULTS/'all-tiles.csv', (run/'history.csv').read_bytes())
    shipped, tiles = Ensemble.load(WEIGHTS, engine=False), data.test.images
    export_onnx(shipped.members[0], WEIGHTS/'member00.onnx', tiles[tiles.max((1, 2)) > 0][:256], shipped.threshold)
    use_onnx(WEIGHTS)
    return WEIGHTS


def keep(run: Path, recipe: Recipe, folder: Path) -> Path:
    "Write all finished folds as a small run, beside those that are there."
    today = lambda text: json.loads(json.dumps((about := json.loads(text)) | dict(recipe=asdict(Recipe.read(about['recipe'])))))  # what an older version did not know, has its default
    about = today((run/'run.json').read_text())
    if folder.resolve() == run: raise SystemExit(f'{folder}: this is the run itself')
    if (folder/'run.json').exists() and today((folder/'run.json').read_text()) != about: raise SystemExit(f'{folder}: holds the folds of another run')
    for fold, nets in gather_folds(run/'networks', recipe)[0].items():
        if (folder/'networks'/f'fold{fold}.json').exists(): continue  # a network that is written again has another hash, and others may have gone on from it
        log = json.loads((run/'networks'/f'fold{fold}.json').read_text())
        paths = [save_network(folder/'networks'/f'fold{fold}-{i}', net, torch.float16).name for i, net in enumerate(nets)]
        write_atomically(folder/'networks'/f'fold{fold}.json', json.dumps(log | dict(paths=paths)).encode())
    write_atomically(folder/'run.json', json.dumps(about, indent=1).encode())
    return folder


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('run', type=Path, nargs='?')
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument('--folds', type=Path, metavar='weights/NAME')
    what.add_argument('--teachers', type=Path, metavar='DIR')
    args = p.parse_args()
    if args.run is None and args.teachers: p.error('--teachers wants RUN, whose folds are kept')
    run = args.run and args.run.resolve()
    if args.teachers: folder = keep(run, Recipe.read(json.loads((run/'run.json').read_text())['recipe']), args.teachers)
    else: folder = ship(run, args.folds.resolve()) if run else rescore(args.folds.resolve())
    print(f"{folder}: {sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 1e6:.1f} MB")


if __name__ == '__main__': main()
