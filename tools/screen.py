"""Screens: ten epochs of the recipe `medium` with one thing changed, on two folds, beside the same ten epochs unchanged.

    python tools/screen.py DATA OUT [--only NAME ...] [--folds 0 1]

Each change is a run in OUT/screen-NAME, goes on where it was stopped, and is added to nbs/results once all folds asked for are there.
One thread, so that two of these can run side by side: a fold takes 8 to 12 minutes of one core.
"""
import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from salt_tgs.losses import LOSSES, elu_plus_one, lovasz_hinge, symmetric_lovasz
from salt_tgs.ensemble import cross_fit_threshold, out_of_fold, threshold_scores
from salt_tgs.model import BLOCKS, HEADS, ConvUnetBlock, HypercolumnHead, load_network
from salt_tgs.submission import Result, train, write_results
from salt_tgs.training import RECIPES, Recipe, Stage

RESULTS = Path(__file__).parent.parent/'nbs'/'results'


class Ungated(ConvUnetBlock):
    "A block of the decoder without squeeze and excitation."
    def __init__(self, *channels):
        super().__init__(*channels)
        self.gate = nn.Identity()

class SharpHead(HypercolumnHead):
    "Two more convolutions at full resolution."
    def __init__(self, decoder_channels):
        super().__init__(decoder_channels)
        conv = lambda: nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.logit = nn.Sequential(conv(), conv(), self.logit)

BLOCKS['Ungated'], HEADS['SharpHead'] = Ungated, SharpHead
LOSSES |= dict(relu=partial(symmetric_lovasz, error=F.relu), salt_only=partial(lovasz_hinge, error=elu_plus_one))


def stages(first='bce', then='symmetric_lovasz', size=104, lr=2e-3, wd=5e-2, bs=16) -> tuple[Stage, ...]: # three epochs and seven
    return Stage(size, first, 3, lr, wd=wd, bs=bs), Stage(size, then, 7, lr, wd=wd, bs=bs)

BASE = replace(RECIPES['medium'], name='screen', stages=stages(), snapshots=3)
CHANGES = dict(  # by name; what is not named is as in the base
    base={},
    fast=dict(stages=stages(lr=4e-3)),
    small_batch=dict(stages=stages(bs=8)),
    wide=dict(decoder_channels=(192, 128, 96, 64)),
    flip_only=dict(augment=('flip',)),
    sharp=dict(head='SharpHead'),
    lite1=dict(encoder='tf_efficientnet_lite1'),
    lite2=dict(encoder='tf_efficientnet_lite2'),
    no_drop_path=dict(drop_path=0.),
    together=dict(augment=('flip',), drop_path=0., stages=stages(lr=4e-3)),  # what gained and costs no time
    no_scse=dict(block='Ungated'),
    no_hypercolumn=dict(head='UpHead'),
    relu=dict(stages=stages(then='relu')),
    salt_only=dict(stages=stages(then='salt_only')),
    no_bce=dict(stages=stages(first='symmetric_lovasz')),
    px128=dict(stages=stages(size=128)),
    resize=dict(how='resize', stages=stages(size=128)),
    resize192=dict(how='resize', stages=stages(size=192)),
    no_cutout=dict(augment=('flip', 'warp', 'light')),
    weak_decay=dict(stages=stages(wd=1e-2)),
    bend=dict(augment=('flip', 'warp', 'light', 'bend', 'cutout')),
)


def last_only(result: Result, networks: Path) -> Result:
    "The same run without the average of weights: of each fold the network of its last epoch."
    last = lambda k: load_network(networks/json.loads((networks/f'fold{k}.json').read_text())['paths'][-1])
    probs = out_of_fold({k: [last(k)] for k in sorted(set(result.folds.tolist()))}, result.data.train.images, result.folds)
    curve = threshold_scores(probs, result.data.train.masks)
    return replace(result, recipe=replace(result.recipe, average=False, snapshots=1), probs=probs, curve=curve, scores=cross_fit_threshold(curve, result.folds)[0])


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('data'); p.add_argument('out', type=Path)
    p.add_argument('--only', nargs='*', choices=list(CHANGES), default=list(CHANGES))
    p.add_argument('--folds', nargs='*', type=int, default=[0, 1])
    a = p.parse_args()
    torch.set_num_threads(1)
    for fold in a.folds:
        for name in a.only:
            out, recipe = a.out/f'screen-{name}', replace(BASE, **CHANGES[name])
            result = train(a.data, out, recipe, only=[fold], resume=(out/'run.json').exists())
            print(name, fold, json.dumps(result.metrics()['official']), flush=True)
            if not set(result.folds.tolist()) >= set(a.folds): continue
            write_results(RESULTS, result, f'screen-{name}')
            if name == 'base': write_results(RESULTS, last_only(result, out/'networks'), 'screen-no_average')


if __name__ == '__main__': main()
