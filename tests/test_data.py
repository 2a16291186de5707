"Broken and disguised files: each is named, and nothing crashes."
import contextlib
import io
import os
import re
import shutil
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from faults import fault
from salt_tgs.data import DataError, RLEError, check_data, coverage_folds, depth_folds, load_data, read_image, read_mask, read_table, rle_decode, rle_encode, rle_encode_batch
from salt_tgs.losses import tile_scores


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_rle_round_trip(mask):
    assert (rle_decode(rle_encode(mask), mask.shape) == mask).all()


TRAPS = ['0 5', '-3 5', '10200 50', '10202 5', '1 1000000000000', '5 3 1 2', '1 5 3 4', '1', '1 -4', '1 0', '１ ５', '1  5', ' 1 5', '1 5 ', '1\t5', '1e0 5', '1.0 5', '+1 5', 'nan']


@pytest.mark.parametrize('text', TRAPS)
@fault('malformed CSV or RLE')
def test_what_the_usual_decoder_takes(text):
    with pytest.raises(RLEError): rle_decode(text)


@given(st.text(alphabet='0123456789 -.e\n１', max_size=30))
@fault('malformed CSV or RLE')
def test_any_text_is_a_mask_or_an_error(text):
    try: mask = rle_decode(text, (9, 9))
    except RLEError: return
    pairs = np.array(text.split(), dtype=int).reshape(-1, 2)
    assert mask.sum() == pairs[:, 1].sum()
    assert (rle_decode(rle_encode(mask), (9, 9)) == mask).all()


ids = st.text(alphabet='abcXYZ019_-', min_size=1, max_size=10)


@given(st.dictionaries(ids, st.text(max_size=20).filter(lambda t: len(t.splitlines()) < 2 and '\0' not in t and t.isprintable())))
@example({'1e5': '1 4', 'null': '', '00123': '"'})
@fault('malformed CSV or RLE')
def test_tables_come_back(rows):
    import csv
    with tempfile.TemporaryDirectory() as d:
        path, text = Path(d)/'train.csv', io.StringIO()
        csv.writer(text).writerows([('id', 'rle_mask'), *rows.items()])
        path.write_text(text.getvalue(), encoding='utf-8')
        assert read_table(path, ('id', 'rle_mask')) == rows


@given(st.binary(max_size=60) | st.text(alphabet='a1,\n\r" \0;e.-', max_size=40).map(lambda t: ('id,rle_mask\n' + t).encode()))
@fault('malformed CSV or RLE')
def test_any_bytes_are_a_table_or_an_error(raw):
    with tempfile.TemporaryDirectory() as d:
        path = Path(d)/'train.csv'
        path.write_bytes(raw)
        try: rows = read_table(path, ('id', 'rle_mask'))
        except DataError as e: assert 'train.csv' in str(e)
        else: assert all(re.fullmatch('[A-Za-z0-9_-]+', i) for i in rows)


def png(a, mode=None):
    f, img = io.BytesIO(), Image.fromarray(a)
    (img.convert(mode) if mode else img).save(f, 'PNG')
    return f.getvalue()


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12)), st.sampled_from([None, 'RGB', 'RGBA', 'LA']))
def test_pictures_come_back(a, mode):
    assert (read_image(png(a, mode)) == a).all()


@given(st.binary(max_size=80) | st.tuples(st.integers(0), st.integers(1, 255)))
@fault('broken, disguised or huge image')
def test_any_bytes_are_a_picture_or_an_error(change):
    raw = png(np.arange(64, dtype=np.uint8).reshape(8, 8))
    if isinstance(change, tuple): at = change[0] % len(raw); raw = raw[:at] + bytes([raw[at] ^ change[1]]) + raw[at + 1:]
    else: raw = raw[:33] + change + raw[33:] if len(change) % 2 else change
    for read in (read_image, read_mask):
        try: a = read(raw, 'tile.png')
        except DataError as e: assert 'tile.png' in str(e)
        else: assert a.ndim == 2


@given(arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))), st.randoms(use_true_random=False))
def test_the_score_of_the_competition(true, rng):
    "Against loops that follow the rules word by word."
    pred = true ^ (np.array([rng.random() for _ in range(true.size)]) < rng.choice([0, .1, .5])).reshape(true.shape)
    for p, t, score in zip(pred, true, tile_scores(pred, true)):
        p, t = ({(i, j) for i, row in enumerate(m) for j, on in enumerate(row) if on} for m in (p, t))
        if not t: slow = float(not p)
        else: slow = sum(100 * len(p & t) > threshold * len(p | t) for threshold in range(50, 100, 5)) / 10
        assert score == pytest.approx(slow)


@given(st.integers(2, 9), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1000)), min_size=9, max_size=60), st.randoms(use_true_random=False))
@fault('not repeatable')
def test_folds_do_not_know_the_order_of_files(n, rows, rng):
    names = [f'{i:03}' for i in range(len(rows))]
    order = list(range(len(rows)))
    rng.shuffle(order)
    coverage, depth = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], float)
    pick = lambda seq: [seq[i] for i in order]
    for folds, again in ((depth_folds(depth, names, n), depth_folds(depth[order], pick(names), n)), (coverage_folds(coverage, depth, names, n), coverage_folds(coverage[order], depth[order], pick(names), n))):
        assert folds[order].tolist() == again.tolist()
        counts = np.bincount(folds, minlength=n)
        assert counts.max() - counts.min() <= 1


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
@fault('broken, disguised or huge image')
def test_damage_is_named(broken, damage):
    words = damage(broken)
    assert any(words in p for p in check_data(broken))
    with pytest.raises(DataError): load_data(broken)


@fault('broken, disguised or huge image')
def test_all_damage_at_once(broken):
    bad = sorted((broken/'train'/'images').glob('*.png'))[1:4]
    for f in bad: f.write_bytes(b'')
    problems = check_data(broken)
    assert len(problems) == 3 and all(any(f.name in p for p in problems) for f in bad)
    with pytest.raises(DataError, match='and 2 more'): load_data(broken)


@fault('archive traversal, bomb')
def test_cut_archive(tiles, tmp_path):
    root = shutil.copytree(tiles, tmp_path/'tiles')
    whole = (root/'train.zip').read_bytes()
    for part in [len(whole) * i // 16 for i in range(16)] + [len(whole) - 30]:
        (root/'train.zip').write_bytes(whole[:part])
        assert any('train.zip' in p for p in check_data(root))


@fault('broken, disguised or huge image')
def test_flipped_bytes_never_crash(tiles, tmp_path):
    with zipfile.ZipFile(tiles/'train.zip') as z: raw = z.read(next(n for n in z.namelist() if n.startswith('images/') and n.endswith('.png')))
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(raw), 200):
        bad = bytearray(raw)
        bad[at] ^= 1 << rng.integers(8)
        try: read_image(bytes(bad), 'tile.png')
        except DataError as e: assert 'tile.png' in str(e)


@fault('broken, disguised or huge image')
def test_cut_and_disguised_images():
    a = np.random.default_rng(0).integers(0, 255, (101, 101), dtype=np.uint8)
    raw = png(a)
    for cut in [len(raw) * i // 30 for i in range(30)] + [len(raw) - i for i in range(1, 13)]:
        with pytest.raises(DataError, match='tile.png'): read_image(raw[:cut], 'tile.png')
    for kind in ('TIFF', 'JPEG', 'BMP', 'GIF'):
        f = io.BytesIO(); Image.fromarray(a).save(f, kind)
        with pytest.raises(DataError, match='tile.png'): read_image(f.getvalue(), 'tile.png')
    chunk = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    for w, h in ((20000, 9500), (9500, 20000), (5000, 10), (2**31 - 1, 1), (0, 5)):
        head = chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 0, 0, 0, 0))
        start = time.process_time()
        with pytest.raises(DataError, match='tile.png'): read_image(b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''), 'tile.png')
        assert time.process_time() - start < 1


@fault('wrong mask values')
def test_masks_are_black_and_white():
    on = np.zeros((5, 5), bool); on[1:3, 2:] = True
    for a in (on, on.astype(np.uint8), on.astype(np.uint8) * 255, on.astype(np.uint16) * 65535, np.stack([on.astype(np.uint8) * 255] * 3, -1)):
        assert (read_mask(png(a)) == on).all()
    for mode in ('P', 'RGBA', '1'): assert (read_mask(png(on.astype(np.uint8) * 255, mode)) == on).all()
    for a in (on * np.uint16(40000), on * np.uint16(300), on * np.uint8(128), on * np.uint8(254), np.where(on, 255, 1).astype(np.uint8), np.where(on, 65535, 255).astype(np.uint16), np.arange(25, dtype=np.uint8).reshape(5, 5)):
        with pytest.raises(DataError, match='mask.png: mask values'): read_mask(png(a), 'mask.png')
    red = np.stack([on * np.uint8(255), *[np.zeros((5, 5), np.uint8)] * 2], -1)
    with pytest.raises(DataError, match='coloured'): read_mask(png(red))


def member(name, data=b'', link=False):
    info = zipfile.ZipInfo(name)
    info.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info, data


@pytest.mark.parametrize('odd, words', [(member('../../escape.png'), 'outside'), (member('images/../../escape.png'), 'outside'), (member('/etc/escape.png'), 'outside'), (member('images\\..\\escape.png'), 'outside'), (member('C:/escape.png'), 'outside'),
                                        (member('images/link.png', b'/etc/passwd', link=True), 'is a link'), (member('images/bomb.png', bytes(2**25)), 'too many for a tile'), (member('masks/bomb.png', bytes(2**21)), 'too many for a tile'), (None, 'twice')])
@fault('archive traversal, bomb')
def test_crafted_archives(tiles, tmp_path, odd, words):
    root = shutil.copytree(tiles, tmp_path/'tiles')
    with zipfile.ZipFile(root/'train.zip', 'a') as z:
        info, data = odd or member(next(n for n in z.namelist() if n.endswith('.png')), png(np.zeros((101, 101), np.uint8)))
        with pytest.warns(UserWarning) if odd is None else contextlib.nullcontext(): z.writestr(info, data)
    start = time.process_time()
    problems = check_data(root)
    assert any('train.zip' in p and words in p for p in problems) and time.process_time() - start < 2
    assert {p.name for p in tmp_path.rglob('*')} == {'tiles', *(p.name for p in root.iterdir())}


@fault('archive traversal, bomb')
def test_a_member_that_lies_about_its_size(tiles, tmp_path):
    root = shutil.copytree(tiles, tmp_path/'tiles')
    with zipfile.ZipFile(root/'train.zip') as z: info = z.infolist()[3]
    raw = bytearray((root/'train.zip').read_bytes())
    at = raw.rindex(info.filename.encode()) - 46  # its entry in the directory at the end
    struct.pack_into('<I', raw, at + 24, 10)
    (root/'train.zip').write_bytes(raw)
    assert any(info.filename.split('/')[-1] in p for p in check_data(root))


@fault('broken, disguised or huge image')
def test_what_is_no_file(broken):
    f = first(broken)
    f.unlink(); os.mkfifo(f)  # whoever opens it waits for ever
    assert any(f.name in p and 'not a file' in p for p in check_data(broken))


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
