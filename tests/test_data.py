"Broken and disguised files: each is named, and nothing crashes."
import os
import shutil
import time
import zipfile

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from salt_tgs.data import DataError, RLEError, check_data, load_data, read_image, rle_decode, rle_encode, rle_encode_batch


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_rle_round_trip(mask):
    assert (rle_decode(rle_encode(mask), mask.shape) == mask).all()


@given(st.text(alphabet='0123456789 -.e\n１', max_size=30))
def test_any_text_is_a_mask_or_an_error(text):
    try: mask = rle_decode(text, (9, 9))
    except RLEError: return
    pairs = np.array(text.split(), dtype=int).reshape(-1, 2)
    assert mask.sum() == pairs[:, 1].sum()


def test_layouts_agree(tiles, broken):
    zipped, unpacked = load_data(tiles), load_data(broken)
    for kind in ('images', 'masks'): shutil.move(broken/'train'/kind, broken/f'train_{kind}')
    shutil.move(broken/'test'/'images', broken/'test_images')
    for other in (unpacked, load_data(broken)):
        assert other.train.ids == zipped.train.ids and other.sample_ids == zipped.sample_ids
        assert (other.train.images == zipped.train.images).all() and (other.train.masks == zipped.train.masks).all()


def first(root, kind='images'): return sorted((root/'train'/kind).glob('*.png'))[0]


def cut(root): f = first(root); f.write_bytes(f.read_bytes()[:200]); return f.name
def garbage(root): f = first(root); f.write_bytes(b'not a picture'); return f.name
def tiff(root): f = first(root); Image.open(f).convert('L').save(f, 'TIFF'); return f.name
def resized(root): f = sorted((root/'train'/'images').glob('*.png'))[5]; Image.open(f).resize((64, 64)).save(f); return f.name
def no_mask(root): f = first(root, 'masks'); f.unlink(); return f.stem
def no_image(root): f = first(root); f.unlink(); return f.stem
def stray(root): (root/'train'/'images'/'notes.doc').write_text('x'); return 'notes.doc'
def grey_mask(root): f = first(root, 'masks'); Image.fromarray(np.full((101, 101), 40, np.uint8)).save(f); return f.name
def no_table(root): (root/'depths.csv').unlink(); return 'depths.csv'
def edit(root, name, change): f = root/name; lines = f.read_text().splitlines(); f.write_text('\n'.join(change(lines)) + '\n')
def no_depth(root): f = first(root); edit(root, 'depths.csv', lambda l: [x for x in l if not x.startswith(f.stem)]); return f.stem
def not_a_depth(root): edit(root, 'depths.csv', lambda l: [l[0], l[1].split(',')[0] + ',deep', *l[2:]]); return "'deep'"
def three_fields(root): edit(root, 'train.csv', lambda l: [*l[:3], l[3] + ',1', *l[4:]]); return 'line 4'
def twice(root): edit(root, 'train.csv', lambda l: [*l, l[1]]); return 'twice'
def overlap(root): edit(root, 'train.csv', lambda l: [l[0], l[1].split(',')[0] + ',1 5 3 4', *l[2:]]); return 'overlap'
def other_mask(root): edit(root, 'train.csv', lambda l: [l[0], l[1].split(',')[0] + ',1 5 9 4', *l[2:]]); return 'differ'
def no_sample(root): edit(root, 'sample_submission.csv', lambda l: l[:-1]); return 'sample_submission.csv'
def folder_gone(root): shutil.rmtree(root/'test'); return 'test.zip'


@pytest.mark.parametrize('damage', [cut, garbage, tiff, resized, no_mask, no_image, stray, grey_mask, no_table, no_depth, not_a_depth,
                                    three_fields, twice, overlap, other_mask, no_sample, folder_gone])
def test_damage_is_named(broken, damage):
    words = damage(broken)
    assert any(words in p for p in check_data(broken))
    with pytest.raises(DataError): load_data(broken)


def test_all_damage_at_once(broken):
    bad = sorted((broken/'train'/'images').glob('*.png'))[1:4]
    for f in bad: f.write_bytes(b'')
    problems = check_data(broken)
    assert len(problems) == 3 and all(any(f.name in p for p in problems) for f in bad)
    with pytest.raises(DataError, match='and 2 more'): load_data(broken)


def test_cut_archive(tiles, tmp_path):
    root = shutil.copytree(tiles, tmp_path/'tiles')
    whole = (root/'train.zip').read_bytes()
    for part in (0, len(whole) // 3, len(whole) - 30):
        (root/'train.zip').write_bytes(whole[:part])
        assert any('train.zip' in p for p in check_data(root))


def test_flipped_bytes_never_crash(tiles, tmp_path):
    with zipfile.ZipFile(tiles/'train.zip') as z: raw = z.read(next(n for n in z.namelist() if n.startswith('images/') and n.endswith('.png')))
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(raw), 200):
        bad = bytearray(raw)
        bad[at] ^= 1 << rng.integers(8)
        try: read_image(bytes(bad), 'tile.png')
        except DataError as e: assert 'tile.png' in str(e)


real = pytest.mark.skipif('SALT_TGS_DATA' not in os.environ, reason='needs the competition data in SALT_TGS_DATA')


@real
def test_competition_data():
    from salt_tgs.losses import official_score
    data = load_data(os.environ['SALT_TGS_DATA'])
    masks = data.train.masks
    assert [rle_encode(rle_decode(t)) for t in rle_encode_batch(masks)] == rle_encode_batch(masks)
    assert official_score(np.zeros_like(masks), masks) == pytest.approx((~masks.any((1, 2))).mean())
    many = np.concatenate([masks] * 6)[:18000]
    start = time.process_time()
    rle_encode_batch(many)
    assert time.process_time() - start < 2
    if len(masks) == 3500: assert round(float(official_score(np.zeros_like(masks), masks)), 4) == .3917
