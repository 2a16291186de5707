"A training that is killed and gone on with is the training that was never killed."
import hashlib
import json
import os
import random
import signal
import time

import pytest

from faults import fault
from forked import Forked, run, workers


def train(tiles, out, *more): return ['train', '--data', tiles, '--out', out, '--folds', '2', '--only-folds', '0', '--epochs-scale', '1', *more]

def weights(out): return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (out/'networks').glob('*.safetensors')}


def one_thread():
    import torch
    torch.set_num_threads(1)


@pytest.fixture(scope='module')
def unbroken(tiles, tmp_path_factory):
    out = tmp_path_factory.mktemp('unbroken')/'out'
    run(train(tiles, out))
    return out


def start(tiles, out):
    "A training of which the first epoch is done."
    p, began = Forked(train(tiles, out)), time.monotonic()
    while not list(out.glob('networks/*.checkpoint')) and p.running() and time.monotonic() < began + 120: time.sleep(.02)
    return p


def same_end(out, unbroken):
    "Weights and log of a training that was never stopped."
    assert weights(out) == weights(unbroken)
    rows, whole = (json.loads((o/'networks'/'fold0.json').read_text())['rows'] for o in (out, unbroken))
    assert [{k: v for k, v in r.items() if k != 'seconds'} for r in rows] == [{k: v for k, v in r.items() if k != 'seconds'} for r in whole]


@pytest.mark.parametrize('signum, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@fault('stop and go on')
def test_asked_to_stop(unbroken, tiles, tmp_path, signum, code):
    out = tmp_path/'out'
    p = start(tiles, out)
    time.sleep(random.Random(time.time_ns()).uniform(0, 1))
    p.signal(signum)
    assert (p.wait(60), [line for line in p.stderr().splitlines() if not line.startswith('fold ')]) == (code, ['interrupted; the same command with --resume goes on'])
    run(train(tiles, out, '--resume'))
    same_end(out, unbroken)


@pytest.mark.parametrize('round', range(2))
@fault('stop and go on')
def test_killed_and_resumed(unbroken, tiles, tmp_path, round):
    out, rng = tmp_path/'out', random.Random(time.time_ns())
    p = start(tiles, out)
    time.sleep(rng.uniform(0, 3))
    p.signal(signal.SIGKILL)
    assert p.wait(60) == -signal.SIGKILL
    (out/'networks'/'.fold0.checkpoint.half').write_bytes(b'of a save that was killed')
    run(train(tiles, out, '--resume'))
    same_end(out, unbroken)
    assert not list((out/'networks').glob('.*'))


@fault('dead worker')
def test_a_fold_goes_on_in_another_worker(tiles, tmp_path):
    "Two folds side by side: the one whose worker is killed ends as it does where nobody kills."
    two = lambda out, *more: ['train', '--data', tiles, '--out', tmp_path/out, '--folds', '2', '--epochs-scale', '1', *more]
    run(two('alone'), one_thread)
    p, began = Forked(two('together', '--workers', '2'), one_thread), time.monotonic()
    while len(list((tmp_path/'together').glob('networks/*.checkpoint'))) < 2 and p.running() and time.monotonic() < began + 120: time.sleep(.02)
    first, _ = workers(p.pid)
    os.kill(first, signal.SIGKILL)
    assert p.wait(200) == 0, p.stderr()
    assert weights(tmp_path/'together') == weights(tmp_path/'alone')


@fault('stop and go on')
def test_resume_wants_the_same_settings(unbroken, tiles):
    before = weights(unbroken)
    for words, more in (('another recipe', ['--resume', '--preset', 'best']), ('another seed', ['--resume', '--seed', 1]), ('--resume', [])):
        assert words in run(train(tiles, unbroken, *more), code=1)
    assert weights(unbroken) == before


@fault('corrupt or cut weights')
def test_a_damaged_checkpoint_is_named(tiles, tmp_path):
    from salt_tgs.training import _read_checkpoint, _write_checkpoint
    from salt_tgs.model import WeightsError
    path = tmp_path/'fold0.checkpoint'
    _write_checkpoint(path, dict(epoch=1))
    assert _read_checkpoint(path) == dict(epoch=1)
    raw = bytearray(path.read_bytes()); raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(WeightsError, match='fold0.checkpoint: damaged'): _read_checkpoint(path)


def test_folds_are_gathered(unbroken, tiles):
    run([a if a != '0' else '1' for a in map(str, train(tiles, unbroken, '--resume'))])
    m = json.loads((unbroken/'metrics.json').read_text())
    assert m['official']['n'] == 48 and set(m['official']['by_fold']) == {'0', '1'}
    import pandas as pd
    runs, oof = pd.read_csv(unbroken/'results'/'runs.csv'), pd.read_csv(unbroken/'results'/'oof'/'out.csv')
    assert len(runs) == 1 and runs.tiles[0] == 48 and len(oof) == 48 and abs(oof.score.mean() - runs['mean'][0]) < 1e-4


SHARED = '''
import sys
from pathlib import Path
import fastai.distributed
import torch
from fastai.basics import default_device
from salt_tgs.submission import train
from salt_tgs.training import RECIPES, Stage
from dataclasses import replace

def broadcast(self, t, rank):  # as fastai's, without the GPU that it takes for granted
    t = torch.tensor(t)
    torch.distributed.broadcast(t, rank)
    return t.tolist()

fastai.distributed.DistributedDL._broadcast = broadcast
default_device(False)
recipe = replace(RECIPES['quick'], name='shared', how='resize', folds=2, stages=(Stage(64, 'bce', 2, 2e-3), Stage(64, 'symmetric_lovasz', 1, 2e-3)))
result = train(sys.argv[1], sys.argv[2], recipe, only=[0])
print(result.history.train_loss.tolist(), result.scores.mean())
'''


def test_processes_share_a_fit(tiles, tmp_path):
    "Two processes, each with its share of every batch: one log, one set of files, and both know the same at the end."
    import subprocess
    import sys
    (tmp_path/'shared.py').write_text(SHARED)
    p = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', tmp_path/'shared.py', tiles, tmp_path/'out'], capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    one, other = p.stdout.splitlines()
    assert one == other
    rows = json.loads((tmp_path/'out'/'networks'/'fold0.json').read_text())['rows']
    assert [(r['stage'], r['epoch']) for r in rows] == [(0, 0), (0, 1), (1, 0)] and rows[1]['train_loss'] < rows[0]['train_loss']
    assert {p.name for p in (tmp_path/'out').iterdir()} == {'run.json', 'networks', 'ensemble', 'results', 'report.html', 'metrics.json'}
