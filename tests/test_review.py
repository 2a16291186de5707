"The page of the reviewer: in a browser, under a hail of kills, with strangers at the door; and what comes out of it."
import base64
import json
import os
import random
import signal
import socket
import sqlite3
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException

import numpy as np
import pytest
import segyio
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from faults import fault
from forked import PROCESSES, run
from salt_tgs.data import DataError, _png, default_tiles, load_data, read_mask
from salt_tgs.ensemble import Ensemble
from salt_tgs.review import LARGEST, Decisions, WindowItems, export_section, export_tiles, open_review, reviewed_tiles
from salt_tgs.section import _binary_header, _record, _text_header, make_default_survey
from test_site import CONTRAST, NARROW, PICTURES, SCHEMES, SIDEWAYS, WIDE, browser, console, requests

TILES = default_tiles(8, seed=5)
SERVE = 'import torch; torch.set_num_threads(1)\nfrom salt_tgs.review import open_review, serve_review\nserve_review(open_review({path!r}, weights={weights!r}, who={who!r}, background={background}), {port}, told=lambda text: None)'


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiles(tmp_path):
    "A folder of tiles that belongs to one test."
    (tmp_path/'tiles').mkdir()
    for id, image in zip(TILES.ids, TILES.images): (tmp_path/'tiles'/f'{id}.png').write_bytes(_png(image))
    return tmp_path/'tiles'


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    "An ensemble that knows nothing, and is there at once."
    import torch
    from salt_tgs.ensemble import Ensemble
    from salt_tgs.model import ConvUnetBlock, Unet, create_encoder, load_network, save_network
    folder = tmp_path_factory.mktemp('small')
    torch.manual_seed(0)
    save_network(folder/'net', Unet(create_encoder('mobilenetv3_small_050'), (8, 8, 8, 8), ConvUnetBlock), size=128, how='pad')
    return Ensemble([load_network(folder/'net')]).save(folder/'ensemble')


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]


class Server:
    "A page in a process of its own."
    def __init__(self, path, weights=None, who='anna', background=False, port=None):
        self.port = port or free_port()
        code = SERVE.format(path=str(path), weights=weights and str(weights), who=who, background=background, port=self.port)
        self.process = PROCESSES.Process(target=exec, args=(code, {}))
        self.process.start()
        for _ in range(1000):
            try: self.ask('/queue?n=1'); break
            except OSError:
                assert self.process.is_alive()
                time.sleep(.03)
        self.address = f'http://127.0.0.1:{self.port}/'

    def ask(self, path, method='GET', body=None, **headers): # status and content
        c = HTTPConnection('127.0.0.1', self.port, timeout=30)
        try:
            c.request(method, path, body, headers)
            r = c.getresponse()
            raw = r.read()
            return r.status, json.loads(raw) if 'json' in r.headers['content-type'] else raw
        finally: c.close()

    def decide(self, id, verdict, base=0, body=b''): return self.ask(f'/items/{id}?verdict={verdict}&base={base}&threshold=0.5', 'POST', body, Origin=f'http://127.0.0.1:{self.port}')

    def kill(self): self.process.kill(); self.process.join()


@contextmanager
def serving(*args, **kw):
    server = Server(*args, **kw)
    try: yield server
    finally: server.kill()


def as_png(mask): return _png(mask.astype(np.uint8) * 255)


# ---- in a browser

def show(browser, size, scheme='light'):
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=size[0], height=size[1], deviceScaleFactor=1, mobile=size == NARROW))
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [{'name': 'prefers-color-scheme', 'value': scheme}, {'name': 'prefers-reduced-motion', 'value': 'reduce'}]})


def wait(browser, script, *args): return WebDriverWait(browser, 15).until(lambda b: b.execute_script(f'return {script}', *args))

def mask(browser): return np.array(browser.execute_script('return [...S.mask]'), bool).reshape(101, 101)

def opened(browser, address, id=None):
    browser.get('about:blank')
    browser.get(address + (f'#{id}' if id else ''))
    wait(browser, 'S.id && !S.busy' + (f' && S.id === {id!r}' if id else ''))

def stroke(browser, *way):
    chain = ActionChains(browser, duration=20).move_to_element_with_offset(browser.find_element(By.ID, 'canvas'), *way[0]).click_and_hold()
    for step in way[1:]: chain = chain.move_by_offset(*step)
    chain.release().perform()

def keys(browser, text): ActionChains(browser).send_keys(text).perform()


def test_a_reviewer_at_work(browser, tiles):
    "Open, move the slider, paint, accept, reload, find it kept; two pages; a server that dies."
    with serving(tiles, background=True) as server:
        show(browser, WIDE)
        console(browser), requests(browser)
        opened(browser, server.address)
        assert [u for u in requests(browser) if not u.startswith((server.address, 'data:', 'about:'))] == [] and console(browser) == []
        wait(browser, 'S.scored && S.rows.length === 8')
        id = browser.execute_script('return S.id')
        proposed = mask(browser)
        raw = np.frombuffer(server.ask(f'/items/{id}/pixels')[1], np.uint8).reshape(4, 101, 101)
        np.testing.assert_array_equal(proposed, raw[3] > 0)

        slider = browser.find_element(By.ID, 'threshold')
        requests(browser)
        slider.send_keys(Keys.ARROW_LEFT * 20)
        np.testing.assert_array_equal(mask(browser), raw[1] > 255 * browser.execute_script('return S.t'))
        assert browser.execute_script('return S.t') == pytest.approx(.3) and not [u for u in requests(browser) if '/items/' in u]
        assert browser.execute_script('const t = performance.now(); setThreshold(.35); draw(); return performance.now() - t') < 100
        keys(browser, 'uz')
        browser.execute_script('document.activeElement.blur()')

        keys(browser, 'b]]')
        before = mask(browser)
        stroke(browser, (-200, -150), (150, 0), (0, 120))
        painted = mask(browser)
        assert painted.sum() > before.sum() and (painted & ~before).sum() > 100 and not (before & ~painted).any()
        keys(browser, 'z'); np.testing.assert_array_equal(mask(browser), before)
        keys(browser, 'y'); np.testing.assert_array_equal(mask(browser), painted)
        keys(browser, 'a')
        assert 'was changed' in browser.find_element(By.ID, 'status').text and server.ask('/queue')[1]['decided'] == 0

        opened(browser, server.address, id)  # the page is closed before anything was decided
        assert 'is back' in browser.find_element(By.ID, 'status').text
        np.testing.assert_array_equal(mask(browser), painted)
        keys(browser, 'c')
        wait(browser, f'S.id !== {id!r} && S.id && !S.busy')
        assert browser.find_element(By.ID, 'counts').text.startswith('1 of 8 decided')
        opened(browser, server.address, id)
        np.testing.assert_array_equal(mask(browser), painted)
        assert '1: correct, anna' in browser.find_element(By.ID, 'history').get_attribute('textContent') and browser.execute_script('return !S.changed')

        assert server.decide(id, 'empty', base=1)[0] == 200  # another page, meanwhile
        keys(browser, Keys.ENTER)
        wait(browser, "$('clash').open")
        assert 'anna decided this one' in browser.find_element(By.ID, 'newer').text
        browser.find_element(By.ID, 'theirs').click()
        wait(browser, 'S.base === 2')
        assert not mask(browser).any()

        assert server.decide(id, 'correct', 2, as_png(painted))[0] == 200  # once more, while this page agrees with what it shows
        keys(browser, 'a')
        wait(browser, "$('clash').open")
        browser.find_element(By.ID, 'mine').click()
        wait(browser, 'S.base === 3 && S.changed')
        assert not mask(browser).any()

        keys(browser, 'b')
        stroke(browser, (-100, 100), (100, 0))
        painted = mask(browser)
        server.kill()
        keys(browser, 'c')
        wait(browser, "/does not answer/.test($('status').textContent) && !S.busy")
        np.testing.assert_array_equal(mask(browser), painted)
        with serving(tiles, port=server.port):
            keys(browser, 'c')
            wait(browser, f'S.id !== {id!r} && S.id && !S.busy')
        kept = reviewed_tiles(tiles.with_name('tiles-review'))
        np.testing.assert_array_equal(kept.masks[kept.ids.index(id)], painted)


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('size', [WIDE, NARROW], ids=['wide', 'narrow'])
def test_the_page_can_be_read_and_touched(browser, page, size, scheme):
    show(browser, size, scheme)
    opened(browser, page.address)
    count, bad = browser.execute_script(CONTRAST)
    assert count > 30 and bad == {}
    assert browser.execute_script(SIDEWAYS) == [] and browser.execute_script(PICTURES) == []
    assert browser.execute_script("return [...document.querySelectorAll('button, input, select')].filter(e => e.checkVisibility() && !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)") == []
    browser.execute_script("DO.help[2]()")
    count, bad = browser.execute_script(CONTRAST, browser.find_element(By.ID, 'keys'))
    assert count > 50 and bad == {} and browser.execute_script(SIDEWAYS) == []
    browser.execute_script("$('keys').close()")
    if size == WIDE: return
    box = browser.execute_script('scrollTo(0, 0); fit(); draw(); const b = canvas.getBoundingClientRect(); return [b.left + b.width/2, b.top + b.height/2]')
    def touch(kind, *points): browser.execute_cdp_cmd('Input.dispatchTouchEvent', dict(type=kind, touchPoints=[dict(x=box[0] + x, y=box[1] + y, id=n) for n, (x, y) in enumerate(points)]))
    before = mask(browser)
    touch('touchStart', (-60, 0)); touch('touchMove', (0, 40)); touch('touchMove', (60, 60)); touch('touchEnd')
    painted, k = mask(browser), browser.execute_script('return view.k')
    assert (painted & ~before).sum() > 30
    touch('touchStart', (-40, 0)); touch('touchStart', (-40, 0), (40, 0)); touch('touchMove', (-80, 0), (80, 0)); touch('touchEnd')
    assert browser.execute_script('return view.k') == pytest.approx(2 * k, rel=.1)
    np.testing.assert_array_equal(mask(browser), painted)  # two fingers draw nothing
    keys(browser, 'z')


@pytest.fixture(scope='module')
def page(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp('page')/'tiles'
    folder.mkdir()
    for id, image in zip(TILES.ids, TILES.images): (folder/f'{id}.png').write_bytes(_png(image))
    with serving(folder, weights) as server: yield server


def test_the_tools_do_what_they_say(browser, page):
    "Fill, holes, smooth and the page's own PNG, each against NumPy."
    show(browser, WIDE)
    opened(browser, page.address)
    def on(mask, script): # a mask in the page, after a tool
        browser.execute_script('const m = arguments[0]; S.strokes = Uint8Array.from(m, v => v ? ON : OFF); update(); change(({holes, smooth, fill: () => fill(50.5, 50.5)})[arguments[1]])', mask.astype(int).ravel().tolist(), script)
        return np.array(browser.execute_script('return [...S.mask]'), bool).reshape(101, 101)
    z, x = np.mgrid[:101, :101] - 50
    ring, open_ring = abs(np.hypot(z, x) - 20) < 4, (abs(np.hypot(z, x) - 20) < 4) & (x > -10)
    np.testing.assert_array_equal(on(ring, 'holes'), np.hypot(z, x) < 24)
    np.testing.assert_array_equal(on(open_ring, 'holes'), open_ring)
    np.testing.assert_array_equal(on(ring, 'fill'), np.hypot(z, x) < 24)
    noise = np.random.default_rng(0).random((101, 101)) > .5
    sums = lambda a: sum(np.pad(a.astype(int), 1)[1 + i:102 + i, 1 + j:102 + j] for i in (-1, 0, 1) for j in (-1, 0, 1))
    n, of = sums(noise), sums(np.ones_like(noise))
    np.testing.assert_array_equal(on(noise, 'smooth'), np.where(2 * n == of, noise, 2 * n > of))
    for shape in ((101, 101), (32, 128), (128, 33)):
        a = np.random.default_rng(1).random(shape) > .5
        raw = browser.execute_script('return btoa(String.fromCharCode(...png(Uint8Array.from(arguments[0]), arguments[1], arguments[2])))', a.astype(int).ravel().tolist(), shape[1], shape[0])
        np.testing.assert_array_equal(read_mask(base64.b64decode(raw)), a)


# ---- kills, and two at once

@fault('kill during save')
def test_killed_twenty_times(tiles, weights):
    "What the server has said is kept, is kept."
    rng, told, folder = random.Random(0), {}, tiles.with_name('tiles-review')
    masks = [np.random.default_rng(k).random((101, 101)) > .5 for k in range(4)]
    last, port = dict.fromkeys(TILES.ids, 0), free_port()
    for round in range(20):
        server, began = Server(tiles, weights, port=port), threading.Event()
        def work(ids):
            try:
                while True:
                    id, k = rng.choice(ids), rng.randrange(4)
                    status, d = server.decide(id, 'correct', last[id], as_png(masks[k]))
                    assert status == 200 or status == 409, d
                    if status == 200: told[d['number']] = d['item'], k
                    began.set()
                    last[id] = d['number'] if status == 200 else d['newer']['number']  # of one that was kept, though nobody was told
            except (OSError, HTTPException): pass
        threads = [threading.Thread(target=work, args=(ids,)) for ids in (TILES.ids[:4], TILES.ids[4:])]
        for t in threads: t.start()
        began.wait(20); time.sleep(rng.uniform(0, .25))
        os.kill(server.process.pid, signal.SIGKILL)
        for t in threads: t.join()
        server.process.join()
        with sqlite3.connect(folder/'review.db') as db: assert db.execute('PRAGMA integrity_check').fetchone() == ('ok',)
        db.close()
    decisions = Decisions(folder)
    there = {d.number: d for id in TILES.ids for d in decisions.history(id)}
    assert len(told) >= 20 and told.keys() <= there.keys() and sorted(there) == list(range(1, len(there) + 1))
    for number, d in there.items():
        mask = decisions.mask(d)
        if number in told: assert d.item == told[number][0]; np.testing.assert_array_equal(mask, masks[told[number][1]])
    assert set(reviewed_tiles(folder).ids) == {d.item for d in there.values()}


@fault('two people, one tile')
def test_two_servers_on_one_folder(tiles, weights):
    "Of all who decide on the same sight of a tile, one is kept, and the others learn of it."
    with serving(tiles, weights, who='anna') as a, serving(tiles, weights, who='bert') as b:
        id, base, found = TILES.ids[0], 0, []
        for _ in range(5):
            answers, start = [], threading.Barrier(8)
            def decide(k):
                start.wait()
                answers.append((a, b)[k % 2].decide(id, 'correct', base, as_png(np.eye(101) > 0 if k % 2 else np.eye(101) < 1)))
            threads = [threading.Thread(target=decide, args=(k,)) for k in range(8)]
            for t in threads: t.start()
            for t in threads: t.join()
            assert sorted(status for status, _ in answers) == [200] + [409] * 7
            made = next(d for status, d in answers if status == 200)
            assert all(d['newer'] == made for status, d in answers if status == 409)
            base = made['number']; found.append(made)
        history = a.ask(f'/items/{id}')[1]['history']
        assert history == found == b.ask(f'/items/{id}')[1]['history']
        assert [d['before'] for d in history[1:]] == [d['mask'] for d in history[:-1]]


@fault('disk full')
def test_no_room_for_a_mask(tiles, weights, monkeypatch):
    import errno
    from salt_tgs import review
    r = open_review(tiles, weights=weights, background=False)
    def full(path, raw): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(review, 'write_atomically', full)
    with pytest.raises(OSError): r.decide(TILES.ids[0], 'empty')
    monkeypatch.undo()
    assert r.queue()['decided'] == 0 and r.decide(TILES.ids[0], 'empty').number == 1
    r.looker.stop()


# ---- strangers

@fault('a stranger at the page')
def test_nobody_else_is_served(tiles, weights):
    (tiles.parent/'secret.png').write_bytes(_png(TILES.images[0]))
    (tiles/'link.png').symlink_to(tiles.parent/'secret.png')
    with serving(tiles, weights) as s:
        listening = [line.split()[1] for name in ('tcp', 'tcp6') if os.path.exists(f'/proc/{s.process.pid}/net/{name}') for line in open(f'/proc/{s.process.pid}/net/{name}').readlines()[1:] if line.split()[3] == '0A']
        assert [a for a in listening if a.endswith(f':{s.port:04X}')] == [f'0100007F:{s.port:04X}']
        id, own = TILES.ids[0], f'http://127.0.0.1:{s.port}'
        for host in ('evil.example', f'evil.example:{s.port}', '192.168.1.2', 'localhost.evil.example', ''): assert s.ask('/queue', Host=host)[0] in (400, 421)
        for origin in (dict(Origin='http://evil.example'), dict(Origin='null'), dict(Origin=f'http://127.0.0.1:{s.port + 1}'), dict(Origin=f'https://127.0.0.1:{s.port}'), {}):
            assert s.ask(f'/items/{id}?verdict=empty', 'POST', b'', **origin)[0] == 403
        for path in ('/items/..%2Fsecret', '/items/../secret/pixels', '/items/%2E%2E%2Fsecret/thumbnail', '/items/secret', '/items/%2Fetc%2Fpasswd', '/review.db', '/../../etc/passwd', '/items/tiles%00', '/masks'): assert s.ask(path)[0] == 404, path
        for path in ('/items/link', '/items/link/pixels', '/items/link/thumbnail'): assert s.ask(path)[0] == 422 and 'a link to a file outside' in s.ask(path)[1]['error']
        assert s.ask('/items/..%2Fsecret?verdict=empty', 'POST', b'', Origin=own)[0] == 404
        assert s.ask('/queue')[1]['decided'] == 0
        c = HTTPConnection('127.0.0.1', s.port)
        c.request('GET', '/')
        r = c.getresponse()
        assert "default-src 'none'" in r.headers['content-security-policy'] and "frame-ancestors 'none'" in r.headers['content-security-policy'] and 'access-control-allow-origin' not in r.headers


@fault('wrong mask values')
def test_a_mask_that_is_sent_is_read_strictly(tiles, weights):
    half = np.tile(np.r_[np.zeros(50), np.ones(51)] > 0, (101, 1))
    bad = {'a picture': _png(TILES.images[1]), 'grey': _png(np.full((101, 101), 128, np.uint8)), 'colour': _png(np.dstack([half * 255, half * 0, half * 0]).astype(np.uint8)), 'cut': as_png(half)[:-30], 'small': as_png(half[:50]), 'huge': as_png(np.zeros((5000, 5000), bool)), 'text': b'<html>', 'nothing': b'', 'jpeg': b'\xff\xd8\xff' + bytes(100)}
    with serving(tiles, weights) as s:
        id = TILES.ids[0]
        for name, raw in bad.items():
            status, told = s.decide(id, 'correct', body=raw)
            assert status == 422 and id in told['error'], name
        assert s.decide(id, 'correct', body=bytes(LARGEST + 1))[0] == 413
        assert s.decide(id, 'accept', body=as_png(half))[0] == 422  # not the mask that was proposed
        assert s.ask('/queue')[1]['decided'] == 0 and not (tiles.with_name('tiles-review')/'masks').exists()
        status, made = s.decide(id, 'correct', body=_png((half * 65535).astype(np.uint16)))
        assert status == 200
    np.testing.assert_array_equal(reviewed_tiles(tiles.with_name('tiles-review')).masks[0], half)


# ---- what comes out

def test_tiles_come_out_as_data(tiles, weights, tmp_path):
    r = open_review(tiles, weights=weights, who='anna', background=False)
    for k, id in enumerate(TILES.ids[:4]): r.decide(id, 'correct', as_png(TILES.masks[k]))
    r.decide(TILES.ids[4], 'empty'); r.decide(TILES.ids[5], 'skip')
    r.looker.stop()
    data = load_data(export_tiles(tmp_path/'tiles-review', tmp_path/'out')).train
    assert data.ids == sorted(TILES.ids[:5])
    for id, image, mask in zip(data.ids, data.images, data.masks):
        k = TILES.ids.index(id)
        np.testing.assert_array_equal(image, TILES.images[k])
        np.testing.assert_array_equal(mask, TILES.masks[k] & (k < 4))
    rows = dict(line.split(',') for line in (tmp_path/'out'/'train.csv').read_text().splitlines()[1:])
    from salt_tgs.data import rle_decode
    assert list(rows) == data.ids and all((rle_decode(rows[id]) == m).all() for id, m in zip(data.ids, data.masks))
    with pytest.raises(DataError, match='already there'): export_tiles(tmp_path/'tiles-review', tmp_path/'out')


def test_a_survey_comes_out_as_a_survey(weights, tmp_path):
    survey, answer = make_default_survey(tmp_path/'survey.sgy', 3, 150, 120)
    r, truth = open_review(survey, weights=weights, who='anna', background=False), np.load(answer)
    assert len(r.items) == 3 * 2 * 2
    decided = np.zeros(truth.shape, bool)
    for k in (0, 3, 6):
        line, traces, samples = r.items.place(k)
        r.decide(r.items.id(k), 'correct', as_png(truth[line, traces, samples].T))
        decided[line, traces, samples] = True
    r.decide(r.items.id(11), 'skip')
    r.looker.stop()
    out = export_section(tmp_path/'survey.sgy-review', survey, tmp_path/'out.sgy', weights)
    with segyio.open(out) as f, segyio.open(tmp_path/'out.network.sgy') as g:
        mask, network = segyio.tools.cube(f), segyio.tools.cube(g)
    np.testing.assert_array_equal(mask[decided], truth[decided])
    np.testing.assert_array_equal(mask[~decided], network[~decided])
    headers = [np.frombuffer(p.read_bytes()[3600:], np.uint8).reshape(-1, 240 + 480)[:, :240] for p in (survey, out)]
    np.testing.assert_array_equal(*headers)
    again = export_section(tmp_path/'survey.sgy-review', survey, tmp_path/'again.sgy', mask=tmp_path/'out.network.sgy')
    assert again.read_bytes() == out.read_bytes()
    kept = reviewed_tiles(tmp_path/'survey.sgy-review')
    assert len(kept) == 3 and kept.images.shape == (3, 101, 101)


def test_what_cannot_be_is_said(weights, tiles, tmp_path):
    "A port that is taken, polarity for tiles, a picture of another size, an id that points elsewhere."
    with socket.create_server(('127.0.0.1', 0)) as taken:
        assert 'cannot be had' in run(['review', tiles, '--weights', weights, '--port', taken.getsockname()[1]], code=1)
    assert '--reverse turns surveys' in run(['review', tiles, '--weights', weights, '--reverse'], code=1)
    r = open_review(tiles, weights=weights, background=False)
    r.decide(TILES.ids[0], 'empty')
    r.looker.stop()
    (tiles/f'{TILES.ids[0]}.png').write_bytes(_png(TILES.images[0][:90]))
    r = open_review(tiles, weights=weights, background=False)
    with pytest.raises(DataError, match='not of the size'): r.pixels(TILES.ids[0], 1)
    with pytest.raises(DataError, match='not the one that was reviewed'): r.decide(TILES.ids[0], 'empty', base=1)
    r.looker.stop()
    with r.decisions._db() as db: db.execute("UPDATE decisions SET item = '/somewhere/else'")
    with pytest.raises(DataError, match='cannot be the id of a tile'): reviewed_tiles(r.decisions.folder)


@pytest.mark.alone
def test_a_long_section_opens_at_once(tmp_path):
    "10,000 traces of 1,000 samples, the network of the package, over HTTP."
    line, path = np.zeros(10_000, _record(1000)), tmp_path/'long.sgy'
    line['samples'] = np.random.default_rng(0).normal(size=(10_000, 1000))
    for name, values in dict(number=1 + np.arange(10_000), samples=1000, interval=4000, kind=1).items(): line['header'][name] = values
    path.write_bytes(_text_header(['Noise']) + _binary_header(1000, 4000) + line.tobytes())
    start = time.perf_counter()
    with pytest.warns(UserWarning, match='one line of 10000 traces'): items = WindowItems(path)
    assert len(items) == 100 * 10 and time.perf_counter() - start < 1
    with serving(path, background=True) as s:
        times = {}
        for name, ask in dict(page='/', queue='/queue', first=f'/items/{items.id(0)}', far=f'/items/{items.id(777)}', pixels=f'/items/{items.id(777)}/pixels', thumbnail=f'/items/{items.id(500)}/thumbnail').items():
            start = time.perf_counter()
            assert s.ask(ask)[0] == 200
            times[name] = time.perf_counter() - start
        assert max(times.values()) < 1, times


def test_training_goes_on_from_what_was_decided(tmp_path, weights):
    many, folder = default_tiles(12, seed=6), tmp_path/'tiles'
    folder.mkdir()
    for id, image in zip(many.ids, many.images): (folder/f'{id}.png').write_bytes(_png(image))
    r = open_review(folder, weights=weights, background=False)
    train = ['train', '--reviewed', tmp_path/'tiles-review', '--start', weights, '--folds', 2, '--epochs-scale', '.1', '--out', tmp_path/'better']
    for k in range(12):
        if k == 3: assert '3 reviewed tiles are too few for 2 folds' in run(train, code=1)
        r.decide(many.ids[k], 'correct', as_png(many.masks[k]))
    r.looker.stop()
    assert '--preset, --batch-size: not with --reviewed' in run([*train, '--preset', 'best', '--batch-size', 4], code=1) and not (tmp_path/'better').exists()
    run(train)
    kept, shown = (json.loads((tmp_path/f/'metrics.json').read_text()) for f in ('better', 'tiles-review'))
    assert kept == shown and kept['official']['n'] == 12
    trained = open_review(folder, weights=weights, background=False)
    assert trained.queue()['trained']['gain']['mean'] == kept['gain']['mean']
    trained.looker.stop()
    assert len(Ensemble.load(tmp_path/'better'/'ensemble').members) == 2


# ---- the verb

def test_the_verb(tiles, weights, tmp_path):
    r = open_review(tiles, weights=weights, background=False)
    r.decide(TILES.ids[0], 'empty'); r.looker.stop()
    run(['review', tiles, '--export', tmp_path/'out'])
    assert load_data(tmp_path/'out').train.ids == [TILES.ids[0]]
    assert 'no such file or folder' in run(['review', tmp_path/'nothing'], code=1)
    with socket.create_server(('127.0.0.1', 0)) as s: assert 'name another one by --port' in run(['review', tiles, '--weights', weights, '--port', s.getsockname()[1]], code=1)


def test_the_verb_ends_when_asked(tiles, weights, tmp_path):
    "Also while the server is only starting (uvloop loses a signal of those milliseconds if nobody else has taken it), and while the engine predicts (a program that ends then ends with a crash)."
    from forked import Forked
    for milliseconds, network in [(8, ['--weights', weights]), (11, ['--weights', weights]), (14, ['--weights', weights]), (100, [])]:
        port = free_port()
        p = Forked(['review', tiles, *network, '--port', port, '--who', 'carla'])
        for _ in range(20_000):
            try: socket.create_connection(('127.0.0.1', port)).close(); break
            except OSError: time.sleep(.001)
        time.sleep(milliseconds / 1000)
        p.signal(signal.SIGTERM)
        assert (p.wait(30), p.stderr()) == (0, ''), milliseconds
