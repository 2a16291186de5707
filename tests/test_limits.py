"Too little memory, too little disk, numbers that are none: each ends in one line that says what to do, and nothing is lost."
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from faults import fault
from forked import Forked, run
from salt_tgs import submission, training
from salt_tgs.model import load_network
from salt_tgs.training import _read_checkpoint


def train(tiles, out): return ['train', '--data', tiles, '--out', out, '--folds', '2', '--only-folds', '0', '--epochs-scale', '0.5']  # an epoch of cross entropy, two of Lovász


def one_line(err, *words): # beside those of finished epochs
    err = ''.join(line for line in err.splitlines(True) if not line.startswith('fold '))
    assert err.count('\n') == 1, err
    for w in words: assert w in err


def infinite():
    good, calls = training.LOSSES['symmetric_lovasz'], []
    def broken(z, y): calls.append(0); return good(z, y) * (float('inf') if len(calls) == 2 else 1)
    training.LOSSES['symmetric_lovasz'] = broken


@fault('NaN or infinite loss')
def test_not_a_number(tiles, tmp_path):
    out = tmp_path/'out'
    err = run(train(tiles, out), infinite, code=1)
    one_line(err, 'became inf in epoch', 'batch', 'learning rate', 'tiles')
    ids = err.split('tiles ')[-1].split()
    sample = {line.split(',')[0] for line in (tiles/'train.csv').read_text().splitlines()}
    assert len(ids) > 1 and set(ids) <= sample
    state = _read_checkpoint(out/'networks'/'fold0.checkpoint')
    assert all(v.isfinite().all() for v in state['model'].values())
    load_network(out/'networks'/'fold0-best')
    run([*train(tiles, out), '--resume'])


def little_memory():
    fit = training.Learner.fit_one_cycle
    def narrow(*args, **kw):
        used = 1024 * int(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmSize')))
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
        return fit(*args, **kw)
    training.Learner.fit_one_cycle = narrow


@fault('out of memory')
def test_training_says_which_batch_to_try(tiles, tmp_path):
    one_line(run(train(tiles, tmp_path/'out'), little_memory, code=1), 'not enough memory for batches of 16 tiles', '--batch-size 8')


@fault('out of memory')
def test_prediction_halves_by_itself(tiles, monkeypatch):
    from salt_tgs.data import load_data
    from salt_tgs.ensemble import Ensemble
    ensemble, images = Ensemble.load(), load_data(tiles).train.images[:11]
    whole = ensemble.predict(images)
    forward, sizes = ensemble.members[0].forward, []
    def small(x):
        sizes.append(len(x))
        if len(x) > 3: raise torch.OutOfMemoryError('CUDA out of memory')
        return forward(x)
    monkeypatch.setattr(ensemble.members[0], 'forward', small)
    np.testing.assert_allclose(ensemble.predict(images), whole, atol=1e-4)
    assert max(sizes) == 11 and sizes[-1] <= 3
    def none(x): raise RuntimeError("can't allocate memory")
    monkeypatch.setattr(ensemble.members[0], 'forward', none)
    with pytest.raises(MemoryError, match='a single tile'): ensemble.predict(images)
    def other(x): raise RuntimeError('something else')
    monkeypatch.setattr(ensemble.members[0], 'forward', other)
    with pytest.raises(RuntimeError, match='something else'): ensemble.predict(images)


def little_room(): submission.shutil.disk_usage = lambda p: type('', (), dict(free=10**6))

def small_files(most): resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY)) # bytes


@fault('disk full')
def test_no_room(tiles, tmp_path):
    out, masks = tmp_path/'out', tmp_path/'masks'
    one_line(run(train(tiles, out), little_room, code=1), 'MB are needed', '1 MB are free', '--out')
    assert not out.exists()
    one_line(run(train(tiles, out), small_files, 5 * 2**20, code=1), 'no room', 'networks')
    assert sorted(p.name for p in out.rglob('*') if p.is_file()) == ['run.json']
    run([*train(tiles, out), '--resume'])
    one_line(run(['predict', tile(tmp_path), '--out', masks], small_files, 10, code=1), 'no room')
    assert not [p for p in masks.rglob('*') if p.is_file()]


def tile(folder):
    from PIL import Image
    from salt_tgs.data import default_tiles
    Image.fromarray(default_tiles(1).images[0]).save(folder/'tile.png')
    return folder/'tile.png'


@fault('dead worker')
def test_training_starts_no_process(tiles, tmp_path):
    p, lives, began = Forked(train(tiles, tmp_path/'out')), {}, time.monotonic()
    while p.running() and time.monotonic() < began + 120:
        for task in Path(f'/proc/{p.pid}/task').glob('*/children'):
            try: children = task.read_text().split()
            except OSError: continue  # that thread has ended
            for c in children: lives.setdefault(c, []).append(time.monotonic())
        time.sleep(.01)
    assert p.wait(1) == 0, p.stderr()
    assert all(seen[-1] - seen[0] < 2 for seen in lives.values())  # git is asked for the commit, and is gone
