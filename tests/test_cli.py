"The command as its users meet it: a process with an exit code, two streams and files."
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import forked
from faults import fault
from salt_tgs.data import default_tiles, make_default_data

COMMAND = Path(sys.executable).with_name('salt-tgs')


def salt(*args, code=0, **kw):
    p = subprocess.run([COMMAND, *map(str, args)], capture_output=True, text=True, timeout=600, **kw)
    assert p.returncode == code, p.stderr
    return p


@pytest.fixture(scope='module')
def finished(tiles, tmp_path_factory):
    out = tmp_path_factory.mktemp('run')/'out'
    p = salt('run', '--data', tiles, '--out', out, '--folds', 2)
    assert [line.split(':')[0] for line in p.stderr.splitlines()][:3] == [f'fold 0, stage {s} of 2, epoch {e}' for s, e in ((1, '1 of 2'), (1, '2 of 2'), (2, '1 of 4'))]  # a line for each epoch where no bar is seen
    return out


def test_predict_knows_what_it_made(tmp_path):
    "--overwrite removes only masks of this command, and --resume does not take an exchanged picture for the old one."
    data, pictures = tmp_path/'data', default_tiles(2).images
    for kind in ('images', 'masks'):
        (data/kind).mkdir(parents=True)
        Image.fromarray(pictures[0]).save(data/kind/'a.png')
    drawn = (data/'masks'/'a.png').read_bytes()
    assert 'so --overwrite does not touch it' in forked.run(['predict', data/'images', '--out', data, '--overwrite'], code=1)
    assert (data/'masks'/'a.png').read_bytes() == drawn
    predict = ['predict', data/'images', '--out', tmp_path/'out']
    forked.run(predict)
    Image.fromarray(pictures[1]).save(data/'images'/'a.png')
    assert 'not made of this picture' in forked.run([*predict, '--resume'], code=1)
    forked.run([*predict, '--overwrite'])
    forked.run([*predict, '--resume'])


@pytest.mark.alone
def test_help_answers_at_once():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        p = salt('--help')
        times.append(time.perf_counter() - start)
    assert {'run', 'train', 'evaluate', 'compare', 'predict', 'submit', 'check-data'} <= set(p.stdout.split())
    assert min(times) < 2


def test_run_writes_everything(finished, tiles):
    assert {'submission.csv', 'ensemble', 'metrics.json', 'report.html'} <= {p.name for p in finished.iterdir()}
    m = json.loads((finished/'metrics.json').read_text())
    assert m['official']['n'] == 48 and m['official']['folds'] == 2 and 0 <= m['official']['mean'] <= 1 and m['official']['se'] >= 0
    assert {'threshold', 'seconds', 'device', 'versions', 'seed', 'settings'} <= m.keys()
    sub, sample = (pd.read_csv(f, dtype=str, keep_default_na=False) for f in (finished/'submission.csv', tiles/'sample_submission.csv'))
    assert list(sub) == ['id', 'rle_mask'] and list(sub.id) == list(sample.id)
    page = (finished/'report.html').read_text()
    assert 'By the size of the true mask' in page
    assert page.count('data:image/png;base64') == 6 and 'src="http' not in page and 'href="http' not in page


@fault('a new run over an old one')
def test_run_does_not_overwrite(finished, tiles):
    def state(): return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in finished.rglob('*') if p.is_file()}
    before = state()
    err = forked.run(['run', '--data', tiles, '--out', finished], code=1)
    assert 'overwrite' in err and err.count('\n') == 1
    assert state() == before


def test_predict(finished, tmp_path):
    rng = np.random.default_rng(0)
    for name, size in dict(tile=(101, 101), wide=(64, 128), tall=(127, 50)).items():
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(tmp_path/f'{name}.png')
    salt('predict', *tmp_path.glob('*.png'), '--weights', finished/'ensemble', '--out', tmp_path/'out')
    for name, size in dict(tile=(101, 101), wide=(64, 128), tall=(127, 50)).items():
        mask, prob = (np.asarray(Image.open(tmp_path/'out'/kind/f'{name}.png')) for kind in ('masks', 'probabilities'))
        assert mask.shape == prob.shape == size and set(np.unique(mask)) <= {0, 255}


def test_evaluate(finished, tiles, tmp_path):
    assert 'trained on all' in forked.run(['evaluate', tiles, '--weights', finished/'ensemble'], code=1)
    other = make_default_data(tmp_path/'other', n_train=20, n_test=2, seed=8)
    p = salt('evaluate', other, '--weights', finished/'ensemble', '--out', tmp_path/'scores.csv')
    scores = pd.read_csv(tmp_path/'scores.csv').score
    assert len(scores) == 20 and f'official score {scores.mean():.4f}' in p.stdout and 'larger' in p.stdout
    assert 'on 48 tiles' in forked.run(['evaluate', tiles, '--weights', finished/'ensemble', '--seen'], both_streams)


def both_streams(): os.dup2(2, 1)

def only_programs_of(folder): os.environ['PATH'] = f'{folder}:/usr/bin:/bin'; both_streams()


@pytest.mark.parametrize('answer, code, words', [
    ('echo Successfully submitted; exit 0', 0, 'Successfully'),
    ('echo "403 Client Error: Forbidden" >&2; exit 1', 1, 'rules'),
    ('echo "401 Client Error: Unauthorized"; exit 1', 1, 'kaggle.json'),
    ('echo "no route to host" >&2; exit 1', 1, 'no route'),
    ('echo "Warning: chmod 600 ~/.kaggle/kaggle.json 403kB/s"; echo Successfully submitted; exit 0', 0, 'Successfully'),
    ('echo "Could not submit to competition"; exit 0', 1, 'did not submit'),
])
def test_submit(finished, tiles, tmp_path, answer, code, words):
    shutil.copy(tiles/'sample_submission.csv', tmp_path)
    client = tmp_path/'kaggle'
    client.write_text(f'#!/bin/sh\n{answer}\n'); client.chmod(0o755)
    said = forked.run(['submit', finished/'submission.csv', '--data', tmp_path], only_programs_of, tmp_path, code=code)
    assert words in said and 'Traceback' not in said


@fault('invalid submission')
def test_submit_checks_first(tiles, tmp_path):
    (tmp_path/'submission.csv').write_text('id,rle_mask\n')
    assert 'does not know' in forked.run(['submit', tmp_path/'submission.csv', '--data', tiles], code=1)
    shutil.copy(tiles/'sample_submission.csv', tmp_path)
    assert 'no row for' in forked.run(['submit', tmp_path/'submission.csv', '--data', tmp_path], code=1)
    whole = '\n'.join(['id,rle_mask', *(f"{i}," for i in pd.read_csv(tiles/'sample_submission.csv').id)]) + '\n'
    (tmp_path/'submission.csv').write_text(whole)
    assert 'pip install' in salt('submit', tmp_path/'submission.csv', '--data', tmp_path, code=1, env=os.environ | {'PATH': ''}).stderr


def alone_in(folder):
    os.chdir(folder); os.environ['TORCH_HOME'] = str(folder/'torch')


@pytest.mark.parametrize('args, code, words', [
    ((), 2, 'required'),
    (('fly',), 2, 'invalid choice'),
    (('run', '--preset', 'huge'), 2, 'there are quick'),
    (('run', '--preset', 'none.json'), 1, 'none.json: cannot be read'),
    (('compare', 'x', 'y'), 1, 'not the folder of a finished run'),
    (('run', '--folds', 'two'), 2, 'at least 2'),
    (('run', '--folds', '1'), 2, 'at least 2'),
    (('run', '--epochs-scale', '0'), 2, 'above 0'),
    (('run', '--batch-size', '1'), 2, 'at least 2'),
    (('predict', '/dev/zero', '--out', 'x'), 1, 'not a file'),
    (('run', '--resume', '--overwrite'), 2, 'not allowed with'),
    (('train', '--only-folds', '7'), 1, 'no fold 7'),
    (('train', '--preset', 'taught'), 1, '--start'),
    (('train', '--preset', 'longer'), 1, '--start'),
    (('train', '--start', 'nowhere'), 1, 'not the folder of a run'),
    (('train', '--all-tiles', '--start', 'nowhere'), 1, 'not the folder of a run'),
    (('train', '--all-tiles', '--only-folds', '1'), 1, 'holds no fold out'),
    (('submit', 'x.csv'), 2, '--data'),
    (('export', '--out', 'x', '--data', 'nowhere'), 1, '32 bits need none'),
    (('export', '--out', 'x', '--bits', '8', '--data', 'nowhere'), 1, 'no such folder'),
    (('evaluate', 'nowhere', '--weights', 'nothing'), 1, 'nothing'),
    (('run', '--data', 'nowhere'), 1, 'no such folder'),
    (('run', '--encoder', 'resnet43'), 1, 'resnet34'),
    (('run', '--encoder', 'resnet34'), 1, '--encoder-weights'),
    (('run', '--encoder-weights', 'nothing.pth'), 1, 'nothing.pth'),
    (('check-data', 'nowhere'), 1, 'no such folder'),
    (('predict', 'nothing.png', '--out', 'x'), 1, 'nothing.png'),
])
def test_wrong_usage(args, code, words, tmp_path):
    err = forked.run(args, alone_in, tmp_path, code=code)
    assert words in err and 'Traceback' not in err
    assert code == 2 or err.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback():
    assert 'Traceback' in salt('run', '--data', 'nowhere', '--debug', code=1).stderr


def loaded(module):
    code = f'import sys, {module}; print(*[m for m in ("torch", "fastai", "matplotlib") if m in sys.modules])'
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()


def test_imports_stay_light():
    assert loaded('salt_tgs.data') == []
    assert loaded('salt_tgs.ensemble') == ['torch']


def test_interrupt(monkeypatch):
    from salt_tgs import cli
    def stop(args): raise KeyboardInterrupt
    monkeypatch.setattr(cli, 'check_command', stop)
    assert cli.main(['check-data', 'x']) == 130


@fault('not repeatable')
def test_a_seed_repeats_a_run(finished, tiles, tmp_path):
    forked.run(['run', '--data', tiles, '--out', tmp_path/'again', '--folds', 2])
    assert (tmp_path/'again'/'submission.csv').read_bytes() == (finished/'submission.csv').read_bytes()
    nets = [{p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (out/'ensemble').glob('*.safetensors')} for out in (finished, tmp_path/'again')]
    assert nets[0] == nets[1] and nets[0]


@fault('invalid submission')
def test_an_independent_reader_agrees(finished, tiles):
    rows = [line.split(',') for line in (finished/'submission.csv').read_text().splitlines()]
    sample = [line.split(',')[0] for line in (tiles/'sample_submission.csv').read_text().splitlines()]
    assert rows[0] == ['id', 'rle_mask'] and [r[0] for r in rows] == sample and {len(r) for r in rows} == {2}
    for _, text in rows[1:]:
        nums, last = [int(n) for n in text.split()], 0
        assert len(nums) % 2 == 0
        for start, length in zip(nums[::2], nums[1::2]):
            assert start > last and length >= 1
            last = start + length
        assert last <= 101 * 101 + 1


def test_predict_reads_no_huge_file(tmp_path):
    with open(tmp_path/'tile.png', 'wb') as f: f.truncate(2**25)
    assert 'too many for a tile' in salt('predict', tmp_path/'tile.png', '--out', tmp_path/'out', code=1).stderr


def test_check_data_for_programs(tiles, tmp_path):
    assert json.loads(salt('check-data', tiles, '--format', 'json').stdout)['problems'] == []
    root = shutil.copytree(tiles, tmp_path/'tiles')
    (root/'depths.csv').unlink()
    found = json.loads(salt('check-data', root, '--format', 'json', code=1).stdout)
    assert found['ok'] is False and 'depths.csv' in found['problems'][0]
