"A survey goes in, a mask comes back in the same geometry, whatever happens on the way."
import hashlib
import json
import os
import shutil
import signal
import struct
import time
import warnings

import numpy as np
import pytest
import segyio

from faults import fault
from forked import Forked, run, workers
from salt_tgs.data import DataError
from salt_tgs.section import make_default_survey, open_section, predict_chunk, predict_section

LINES, SIZES = 12, (12, 40, 60)


@pytest.fixture(scope='module')
def survey(tmp_path_factory):
    return make_default_survey(tmp_path_factory.mktemp('survey')/'survey.sgy', *SIZES, seed=2)[0]


def args(survey, out, *more): return ['section', survey, '--out', out, '--no-tta', '--overlap', '0.25', '--save-probs', *more]

def one_thread():
    import torch
    torch.set_num_threads(1)

def written(out): return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (out, out.with_name(f'{out.stem}.probs.sgy'), out.with_name(f'{out.name}.json'))}


@pytest.fixture(scope='module')
def unbroken(survey, tmp_path_factory):
    out = tmp_path_factory.mktemp('unbroken')/'salt.sgy'
    run(args(survey, out), one_thread)
    return out


def slowly(seconds):
    "Chunks that take so long that a test can step in between."
    from salt_tgs import section
    one_thread()
    quick = section._do_chunk
    def slow(*a): quick(*a); time.sleep(seconds)
    section._do_chunk = slow


def start(command, out, chunks, *prepare):
    "A command of which some chunks are done."
    p, began = Forked(command, *prepare), time.monotonic()
    while len(list(out.with_name(f'{out.name}.work').glob('inline*.npz'))) < chunks and p.running() and time.monotonic() < began + 60: time.sleep(.01)
    return p


def samples(path):
    with segyio.open(path) as f: return segyio.tools.cube(f)


def headers(path): # of 240 bytes each, and those of the file
    raw = path.read_bytes()
    return raw[:3600], np.frombuffer(raw[3600:], np.uint8).reshape(-1, 240 + 4 * SIZES[2])[:, :240].tobytes()


def test_headers_are_those_of_the_input(survey, unbroken): assert headers(unbroken) == headers(survey)


def test_the_mask_is_the_one_computed_in_memory(survey, unbroken, monkeypatch):
    import torch
    from salt_tgs.ensemble import Ensemble
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ensemble, section, scale = Ensemble.load(), open_section(survey), json.loads((unbroken.parent/'salt.sgy.json').read_text())['scale']
    probs = np.stack([predict_chunk(section, ensemble, i, scale=scale, overlap=.25, tta=False)[0] for i in range(LINES)])
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(samples(unbroken), probs > ensemble.threshold)
    np.testing.assert_array_equal(samples(unbroken.with_name('salt.probs.sgy')), probs.astype(np.float16))


@fault('kill during save')
@pytest.mark.parametrize('chunks', [0, 5])
def test_killed_and_resumed(survey, unbroken, tmp_path, chunks):
    out = tmp_path/'salt.sgy'
    p = start(args(survey, out), out, chunks, slowly, .1)
    p.signal(signal.SIGKILL)
    assert p.wait(60) == -signal.SIGKILL and not out.exists()
    done = {f: f.stat().st_mtime_ns for f in out.with_name('salt.sgy.work').glob('inline*.npz')} if chunks else {}
    assert len(done) >= chunks
    kept = [(f.read_bytes(), f) for f in done]
    run(args(survey, out, '--resume'), one_thread)
    assert written(out) == written(unbroken) and len(kept) < LINES
    assert {p.name for p in tmp_path.iterdir()} == set(written(unbroken))


@fault('stop and go on')
def test_asked_to_stop(survey, unbroken, tmp_path):
    out = tmp_path/'salt.sgy'
    p = start(args(survey, out), out, 2, slowly, .1)
    p.signal(signal.SIGTERM)
    assert (p.wait(60), p.stderr()) == (143, 'interrupted; the same command with --resume goes on\n')
    assert '--resume goes on' in run(args(survey, out), code=1)
    assert 'other settings (overlap)' in run([*args(survey, out, '--resume'), '--overlap', '0.5'], code=1)
    run(args(survey, out, '--resume'), one_thread)
    assert written(out) == written(unbroken)


def test_parts_need_not_know_each_other(survey, unbroken, tmp_path):
    out = tmp_path/'salt.sgy'
    parts = [Forked(args(survey, out, '--part', f'{k}/2'), one_thread) for k in (1, 2)]
    assert [p.wait(60) for p in parts] == [0, 0]
    assert written(out) == written(unbroken)


@fault('dead worker')
def test_a_killed_worker_loses_nothing(survey, unbroken, tmp_path):
    out = tmp_path/'salt.sgy'
    p = start(args(survey, out, '--workers', '2'), out, 1)
    first, _ = workers(p.pid)
    os.kill(first, signal.SIGKILL)
    assert not out.exists()
    assert p.wait(60) == 0
    assert written(out) == written(unbroken)


def changed(survey, path, changes):
    raw = bytearray(survey.read_bytes())
    for at, kind, value in changes: struct.pack_into(kind, raw, at, value)
    path.write_bytes(raw)
    return path


@fault('broken survey')
@pytest.mark.parametrize('name, words', [('cut', 'cut short'), ('longer', 'cut short'), ('lengthless', 'does not say how many samples'), ('page', 'or SEG-Y file'), ('empty', 'fewer than the headers'), ('zeros', 'nothing but zeros')])
def test_broken_surveys_are_named(survey, tmp_path, name, words):
    raw, path = survey.read_bytes(), tmp_path/f'{name}.sgy'
    path.write_bytes(dict(cut=raw[:-777], longer=raw + bytes(100), lengthless=raw[:3220] + bytes(2) + raw[3222:], page=b'<html>' + b'gone ' * 2000, empty=b'', zeros=raw[:3840] + bytes(480 * SIZES[0] * SIZES[1] - 240))[name])
    (tmp_path/'out').mkdir()
    err = run(args(path, tmp_path/'out'/'salt.sgy'), code=1)
    assert err.startswith(f'salt-tgs: {path}: ') and words in err.splitlines()[-1] and err.count('\n') == 1 + (name == 'zeros')  # whose headers are zeros, too, so that it is said to be a line first
    assert not list((tmp_path/'out').iterdir())


@fault('broken survey')
def test_without_geometry_it_is_a_line(survey, tmp_path):
    path = tmp_path/'lost.sgy'
    raw = np.frombuffer(bytearray(survey.read_bytes()), np.uint8)
    traces = raw[3600:].reshape(-1, 480)
    traces[:, 188:196] = 0
    path.write_bytes(raw.tobytes())
    assert 'taken as one line of 480 traces' in run(args(path, tmp_path/'salt.sgy'))
    assert headers(tmp_path/'salt.sgy') == headers(path)
    changed(path, path, [(3216, '>H', 0), (3716, '>H', 0)])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        section = open_section(path)
    assert 'samples are counted' in str(said[-1].message) and (section.interval, section.unit) == (1, 'samples')


@fault('broken survey')
def test_one_damaged_header_of_a_volume_is_named(tmp_path):
    "A volume is not taken for a line of days because of one trace; a small one is, aloud."
    for name, inlines, trace in (('large', 145, 17), ('small', 6, 77)):
        path, _ = make_default_survey(tmp_path/f'{name}.sgy', inlines, 140, 12)
        changed(path, path, [(3600 + trace * 288 + 188, '>i', 900_000_000)])
        why = f'farthest from the others is trace {trace}, at 900000000, {2001 + trace}'
        if name == 'large':
            with pytest.raises(DataError, match=f'{path}: .*{why}.*say --line'): open_section(path)
            assert open_section(path, as_line=True).shape == (145 * 140, 12)
        else:
            with pytest.warns(UserWarning, match=why): assert open_section(path).shape == (6 * 140, 12)


@fault('broken survey')
def test_one_damaged_chunk_is_named(survey, tmp_path):
    "Of a Zarr array only the lines of a damaged chunk cannot be read; and an answer does not go into the survey itself."
    import zarr
    section = open_section(survey)
    z = zarr.create_array(tmp_path/'v.zarr', shape=section.shape, chunks=(1, *section.shape[1:]), dtype='float32', dimension_names=('inline', 'crossline', 'time'))
    for i in range(section.grid[0]): z[i] = section.panel(i)[0].T
    (tmp_path/'v.zarr'/'c'/'2'/'0'/'0').write_bytes(b'damaged')
    np.testing.assert_array_equal(open_section(tmp_path/'v.zarr').panel(1)[0], section.panel(1)[0])
    with pytest.raises(DataError, match='v.zarr: inline 2 cannot be read'): open_section(tmp_path/'v.zarr').panel(2)
    with pytest.raises(DataError, match='lies in the survey itself'): predict_section(tmp_path/'v.zarr', tmp_path/'v.zarr'/'salt.zarr')


def test_the_other_polarity(survey, tmp_path):
    "A survey whose sign was turned, and turned back by --reverse, gets the mask of the one as it was; --resume knows the difference."
    section = open_section(survey)
    np.save(tmp_path/'two.npy', np.stack([section.panel(i)[0].T for i in range(2)]))
    np.save(tmp_path/'turned.npy', -np.load(tmp_path/'two.npy'))
    small = lambda name, *more: ['section', tmp_path/name, '--out', tmp_path/f'salt-{name}', '--no-tta', '--overlap', '0', *more]
    run(small('two.npy'))
    run(small('turned.npy', '--reverse'))
    np.testing.assert_array_equal(np.load(tmp_path/'salt-turned.npy'), np.load(tmp_path/'salt-two.npy'))
    assert 'other settings (reverse)' in run(small('turned.npy', '--resume'), code=1)


@pytest.mark.parametrize('kind', [1, 2, 3, 5, 8])
def test_formats_and_holes(survey, tmp_path, kind):
    "Traces out of order and missing, in each format: those that are there are read, nothing else is written."
    path, order = tmp_path/'odd.sgy', np.random.default_rng(0).permutation(SIZES[0] * SIZES[1])[:400]
    with segyio.open(survey) as f:
        spec = segyio.spec()
        spec.samples, spec.tracecount, spec.format = f.samples, len(order), kind
        top = max(abs(f.trace.raw[:]).ravel()) / 120
        with segyio.create(path, spec) as g:
            g.bin = {**f.bin, 3225: kind}
            for n, k in enumerate(order.tolist()): g.header[n] = f.header[k]; g.trace[n] = (f.trace[k] / top).astype(g.dtype)
    whole, odd = open_section(survey), open_section(path)
    assert odd.live.sum() == 400 and odd.shape == whole.shape
    for i in range(0, LINES, 5):
        (a, live), (b, _) = odd.panel(i), whole.panel(i)
        assert not a[:, ~live].any()
        np.testing.assert_allclose(a[:, live], b[:, live] / top, atol=1 if kind in (2, 3, 8) else 1e-3)
    before = path.read_bytes()
    done = predict_section(path, tmp_path/'salt.sgy', overlap=.25, tta=False, probs=True)
    size = 240 + 60 * dict.fromkeys((1, 2, 5), 4).get(kind, kind - 1 if kind == 3 else 1)
    a, b = (np.frombuffer(raw[3600:], np.uint8).reshape(400, size) for raw in (before, done.read_bytes()))
    assert before == path.read_bytes() and (a[:, :240] == b[:, :240]).all()
    with segyio.open(done, ignore_geometry=True) as f: assert set(np.unique(f.trace.raw[:])) <= {0, 1}
    with segyio.open(tmp_path/'salt.probs.sgy', ignore_geometry=True) as f: assert 0 <= f.trace.raw[:].min() and f.trace.raw[:].max() <= (100 if kind in (2, 3, 8) else 1)


def test_a_section_travels(survey):
    import pickle
    a, b = open_section(survey), pickle.loads(pickle.dumps(open_section(survey)))
    np.testing.assert_array_equal(a.panel(3)[0], b.panel(3)[0])


MDIO = '''
import sys
from mdio import mdio_to_segy, open_mdio, segy_to_mdio
from mdio.builder.template_registry import get_template
from segy.schema import HeaderField
from segy.standards import get_segy_standard
fields = [HeaderField(name=n, byte=b, format='int32') for n, b in (('inline', 189), ('crossline', 193), ('cdp_x', 181), ('cdp_y', 185))]
spec = get_segy_standard(1.0).customize(trace_header_fields=fields)
if __name__ == '__main__':
    what, a, b = sys.argv[1:]
    if what == 'in': segy_to_mdio(spec, get_template('PostStack3DTime'), a, b)
    else: mdio_to_segy(spec, a, b)
'''


def test_mdio(survey, unbroken, tmp_path):
    "The answer is a SEG-Y that MDIO reads; the same survey as MDIO comes back as MDIO, and goes to SEG-Y."
    import subprocess
    import sys
    (tmp_path/'convert.py').write_text(MDIO)
    env = os.environ | {'MDIO__IMPORT__SAVE_SEGY_FILE_HEADER': '1', 'MDIO__IMPORT__CPU_COUNT': '1', 'MDIO__EXPORT__CPU_COUNT': '1'}
    def convert(*a):
        p = subprocess.run([sys.executable, tmp_path/'convert.py', *map(str, a)], capture_output=True, text=True, env=env)
        assert p.returncode == 0, p.stderr
    convert('in', unbroken, tmp_path/'answer.mdio')
    convert('in', survey, tmp_path/'survey.mdio')
    answer, section = open_section(tmp_path/'answer.mdio'), open_section(tmp_path/'survey.mdio')
    np.testing.assert_array_equal(np.stack([answer.panel(i)[0].T for i in range(LINES)]), samples(unbroken))
    assert section.kind == 'mdio' and list(section.axes['inline']) == list(range(1001, 1001 + LINES)) and section.interval == 4
    done = predict_section(tmp_path/'survey.mdio', tmp_path/'salt.mdio', overlap=.25, tta=False)
    convert('out', done, tmp_path/'back.sgy')
    np.testing.assert_allclose(samples(tmp_path/'back.sgy'), samples(unbroken))
    with segyio.open(tmp_path/'back.sgy') as f, segyio.open(survey) as g: assert [dict(f.header[k]) for k in (0, 77)] == [dict(g.header[k]) for k in (0, 77)]
