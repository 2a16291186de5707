"Weights and checkpoints that were cut, damaged, exchanged or planted: refused by name, and nothing in them runs."
import hashlib
import importlib.resources
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from faults import fault
from salt_tgs.cli import main
from salt_tgs.data import DataError, load_data, read_image, read_mask, read_table, rle_decode
from salt_tgs.ensemble import Ensemble, average_weights
from salt_tgs.model import ConvUnetBlock, Unet, WeightsError, create_encoder, load_network, read_encoder_weights, save_network
from salt_tgs.submission import check_submission
from salt_tgs.training import RECIPES, _read_checkpoint, _write_checkpoint, train_fold


ENCODER = 'mobilenetv3_small_050'  # half a million weights: files that are quickly written

def small(): return Unet(create_encoder(ENCODER), (8, 8, 8, 8), ConvUnetBlock)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "An ensemble of one small network."
    folder = tmp_path_factory.mktemp('saved')/'ensemble'
    path = save_network(folder.parent/'net', small(), size=128, how='pad')
    return Ensemble([load_network(path)]).save(folder)


@pytest.fixture
def copy(saved, tmp_path): return shutil.copytree(saved, tmp_path/'ensemble')


class Canary:
    "A pickle of it makes a file when it is read carelessly."
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return open, (self.path, 'w')


def planted(path):
    "The ways in which the canary can be packed."
    zipped = io.BytesIO()
    torch.save(Canary(path), zipped)
    array = io.BytesIO()
    np.save(array, np.array([Canary(path)], dtype=object), allow_pickle=True)
    return dict(plain=pickle.dumps(Canary(path)), torch=zipped.getvalue(), numpy=array.getvalue())


@pytest.mark.parametrize('kind', ['plain', 'torch', 'numpy'])
@fault('malicious checkpoint')
def test_a_pickle_is_refused_everywhere(kind, copy, tiles, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    canary = tmp_path/'canary'
    raw = planted(canary)[kind]
    evil = {s: tmp_path/f'evil{s}' for s in ('.pth', '.safetensors', '.json', '.png', '.csv', '.zip')}
    for p in evil.values(): p.write_bytes(raw)
    data = shutil.copytree(tiles, tmp_path/'data')
    (data/'train.zip').write_bytes(raw)
    checkpoint = tmp_path/'networks'/'fold0.checkpoint'
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(hashlib.sha256(raw).hexdigest().encode() + raw)  # whoever plants it knows how it is sealed
    sealed = tmp_path/'sealed'
    for p in copy.glob('member00.*'): shutil.copy(p, sealed.with_suffix(p.suffix))
    sealed.with_suffix('.safetensors').write_bytes(raw)
    meta = json.loads(sealed.with_suffix('.json').read_text()) | dict(sha256=hashlib.sha256(raw).hexdigest())
    sealed.with_suffix('.json').write_text(json.dumps(meta))
    run = tmp_path/'run'
    run.mkdir()
    (run/'run.json').write_bytes(raw)
    some = load_data(tiles).train[:20]
    for f in (lambda: load_network(evil['.safetensors']), lambda: load_network(sealed), lambda: average_weights([sealed]),
              lambda: read_encoder_weights(evil['.pth'], 'resnet34'), lambda: read_encoder_weights(sealed.with_suffix('.safetensors'), ENCODER),
              lambda: create_encoder('tf_efficientnet_lite0', evil['.pth']), lambda: create_encoder('tf_efficientnet_lite0', evil['.safetensors']),
              lambda: _read_checkpoint(checkpoint), lambda: train_fold(some, some, RECIPES['quick'], checkpoint.parent, weights=None, resume=True),
              lambda: read_image(raw), lambda: read_mask(raw), lambda: read_table(evil['.csv'], ('id', 'rle_mask')), lambda: load_data(data), lambda: rle_decode(raw.decode('latin-1'))):
        with pytest.raises((WeightsError, DataError)): f()
    assert check_submission(evil['.csv'], some.ids)
    shutil.copy(sealed.with_suffix('.safetensors'), copy/'member00.safetensors'); shutil.copy(sealed.with_suffix('.json'), copy/'member00.json')
    with pytest.raises(WeightsError): Ensemble.load(copy)
    shutil.copy(evil['.json'], copy/'ensemble.json')
    with pytest.raises(WeightsError): Ensemble.load(copy)
    for args in (('predict', evil['.png'], '--out', 'x'), ('check-data', data), ('run', '--data', data, '--out', 'x'), ('evaluate', tiles, '--weights', copy),
                 ('run', '--data', tiles, '--out', 'x', '--encoder-weights', evil['.pth']), ('train', '--data', tiles, '--out', 'x', '--encoder-weights', evil['.safetensors']),
                 ('train', '--data', tiles, '--out', 'x', '--start', run), ('train', '--data', tiles, '--out', run, '--resume'), ('submit', evil['.csv'], '--data', tiles.parent)):
        assert main([str(a) for a in args]) == 1, args
        said = capsys.readouterr().err
        assert said and (said.count('\n') == 1 or args[0] == 'check-data') and 'Traceback' not in said
    assert not canary.exists()


@fault('malicious checkpoint')
def test_no_loader_that_runs_code():
    code = ''.join(p.read_text() for p in Path(main.__code__.co_filename).parent.glob('*.py'))
    assert not re.findall(r'import pickle|load_learner|SaveModelCallback|weights_only=False|allow_pickle=True|(?<![.\w])eval\(|(?<![.\w])exec\(|yaml\.load|joblib', code)
    assert all('weights_only=True' in call for call in re.findall(r'torch\.load\(.*', code)) and all('allow_pickle=False' in call for call in re.findall(r'np\.load\(.*', code))


@fault('corrupt or cut weights')
def test_flipped_and_cut_files_are_named(copy, tmp_path):
    _write_checkpoint(tmp_path/'fold0.checkpoint', dict(epoch=1, model=small().state_dict()))
    rng = np.random.default_rng(0 if 'CI' in os.environ else None)
    for path, load in ((copy/'member00.safetensors', lambda: load_network(copy/'member00')), (tmp_path/'fold0.checkpoint', lambda: _read_checkpoint(tmp_path/'fold0.checkpoint'))):
        raw = path.read_bytes()
        cuts = [raw[:len(raw) * i // 16] for i in range(16)]
        flips = [raw[:at] + bytes([raw[at] ^ 1 << rng.integers(8)]) + raw[at + 1:] for at in rng.integers(0, len(raw), 30).tolist()]
        for bad in cuts + flips:
            path.write_bytes(bad)
            with pytest.raises(WeightsError, match=path.name): load()
        path.write_bytes(raw)
        load()
    for path in (copy/'member00.json', copy/'ensemble.json'):  # text: a flipped bit may leave a word that nobody needs
        raw = path.read_bytes()
        cuts = [raw[:len(raw) * i // 16] for i in range(16)]
        flips = [raw[:at] + bytes([raw[at] ^ 1 << rng.integers(8)]) + raw[at + 1:] for at in rng.integers(0, len(raw), 60).tolist()]
        for bad in cuts + flips:
            path.write_bytes(bad)
            try: Ensemble.load(copy, engine=False)
            except WeightsError as e: assert str(copy) in str(e)
            else: assert bad not in cuts
        path.write_bytes(raw)


@fault('the engine cannot run on this processor')
def test_torch_predicts_where_the_engine_cannot(monkeypatch, tiles):
    import openvino
    def cannot(*args): raise RuntimeError('could not create a primitive descriptor')
    monkeypatch.setattr(openvino.Core, 'compile_model', cannot)
    with pytest.warns(UserWarning, match='cannot run it on this processor.*torch does it here'): ensemble = Ensemble.load()
    images = load_data(tiles).test.images
    assert np.array_equal(ensemble.predict(images), Ensemble.load(engine=False).predict(images))


@fault('corrupt or cut weights')
def test_a_file_of_the_engine_is_the_one_that_was_made(tmp_path):
    copy = shutil.copytree(importlib.resources.files('salt_tgs')/'weights', tmp_path/'weights')
    path, rng = copy/'member00.onnx', np.random.default_rng(0 if 'CI' in os.environ else None)
    raw = path.read_bytes()
    for bad in [raw[:len(raw) * i // 16] for i in range(16)] + [raw[:at] + bytes([raw[at] ^ 1 << rng.integers(8)]) + raw[at + 1:] for at in rng.integers(0, len(raw), 30).tolist()]:
        path.write_bytes(bad)
        with pytest.raises(WeightsError, match='member00.onnx'): Ensemble.load(copy)
    path.write_bytes(raw)
    Ensemble.load(copy)
    about = copy/'member00.json'
    about.write_text(json.dumps(json.loads(about.read_text()) | dict(sha256='0' * 64)))
    with pytest.raises(WeightsError, match='made of other weights'): Ensemble.load(copy)
    path.unlink()
    with pytest.raises(WeightsError, match='member00.onnx: cannot be read'): Ensemble.load(copy)


FEW = settings(max_examples=max(40, settings().max_examples * (settings().max_examples > 1000)))  # a network is slow to build; all of them when exploring
json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=3), max_leaves=6)


@FEW
@given(st.sampled_from(['architecture', 'encoder', 'block', 'head', 'decoder_channels', 'mean', 'std', 'sha256', 'size', 'how', 'started_from', 'recipe']), json_values)
@fault('wrong weights for the network')
def test_any_manifest_is_a_network_or_an_error(saved, key, value):
    path = saved.parent/'odd'
    if not path.with_suffix('.safetensors').exists(): shutil.copy(saved/'member00.safetensors', path.with_suffix('.safetensors'))
    meta = json.loads((saved/'member00.json').read_text())
    path.with_suffix('.json').write_text(json.dumps(meta | {key: value}))
    try: net = load_network(path)
    except WeightsError as e: assert 'odd' in str(e)
    else: assert key in ('started_from', 'recipe') or value == meta[key] or key == 'size' and 32 <= value <= 4096


@FEW
@given(st.binary(max_size=200) | st.tuples(st.integers(0), st.integers(1, 255)))
@fault('corrupt or cut weights')
def test_any_sealed_bytes_are_a_network_or_an_error(saved, change):
    raw = (saved/'member00.safetensors').read_bytes()
    if isinstance(change, tuple): at = change[0] % len(raw); raw = raw[:at] + bytes([raw[at] ^ change[1]]) + raw[at + 1:]
    else: raw = change
    path = saved.parent/'bytes'
    path.with_suffix('.safetensors').write_bytes(raw)
    path.with_suffix('.json').write_text(json.dumps(json.loads((saved/'member00.json').read_text()) | dict(sha256=hashlib.sha256(raw).hexdigest())))
    try: net = load_network(path)
    except WeightsError as e: assert 'bytes' in str(e)
    else: assert all(v.isfinite().all() for v in net.state_dict().values())


@fault('wrong weights for the network')
def test_other_networks_are_refused(saved, tmp_path, tiles):
    path = save_network(tmp_path/'wide', Unet(create_encoder(ENCODER), (16, 16, 16, 16)), size=128, how='resize')
    about = path.with_suffix('.json')
    meta, other = json.loads(about.read_text()), json.loads((saved/'member00.json').read_text())
    for wrong in (dict(decoder_channels=other['decoder_channels']), dict(block=other['block']), dict(head='HypercolumnHead'), dict(encoder='resnet34'), dict(architecture='SegFormer'),
                  dict(sha256=other['sha256']), dict(mean=[.1, .2, .3]), dict(std=[1., 1., 1.]), dict(how='crop'), dict(size=0)):
        about.write_text(json.dumps(meta | wrong))
        with pytest.raises(WeightsError, match='wide'): load_network(path)
    about.write_text(json.dumps(meta))
    ensemble = shutil.copytree(saved, tmp_path/'ensemble')
    (ensemble/'member00.json').write_text(json.dumps({k: v for k, v in other.items() if k != 'size'}))  # found by a flipped bit in that word
    with pytest.raises(WeightsError, match='member00.json'): Ensemble.load(ensemble)
    pad, resize = save_network(tmp_path/'pad', small(), size=128, how='pad'), save_network(tmp_path/'resize', small(), size=128, how='resize')
    with pytest.raises(WeightsError, match='frames'): average_weights([pad, resize])
    some, recipe = load_data(tiles).train[:20], RECIPES['quick']
    with pytest.raises(ValueError, match='architecture'): train_fold(some, some, recipe, tmp_path/'x', weights=None, start=load_network(path))


SAVER = '''
import os, random, signal, sys, time
from pathlib import Path
import torch
from salt_tgs.model import ConvUnetBlock, Unet, create_encoder, load_network, save_network
from salt_tgs.training import _read_checkpoint, _write_checkpoint
torch.set_num_threads(1)
folder, net, rng = Path(sys.argv[1]), Unet(create_encoder('mobilenetv3_small_050'), (8, 8, 8, 8), ConvUnetBlock), random.Random()
def save(i):
    path = save_network(folder/f'epoch{i:06}', net, size=128, how='pad')
    _write_checkpoint(folder/'fold0.checkpoint', dict(epoch=i, paths=[path.name], model=net.state_dict()))
    for old in folder.glob(f'epoch{i - 3:06}.*'): old.unlink()
save(start := 0)
for round in range(20):
    child = os.fork()
    if not child:
        while True: save(start := start + 1)
    time.sleep(rng.uniform(.05, .3))
    os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
    state = _read_checkpoint(folder/'fold0.checkpoint')
    for name in state['paths']: load_network(folder/name)
    assert state['epoch'] >= start
    start = state['epoch']
print(start)
'''

@fault('kill during save')
def test_killed_while_saving(tmp_path):
    p = subprocess.run([sys.executable, '-c', SAVER, tmp_path], capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stderr
    assert int(p.stdout) >= 10  # saves that were finished
