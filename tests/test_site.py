"The site as its readers meet it: in a browser, wide and narrow, light and dark."
import json
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(p.relative_to(ROOT/'docs').as_posix() for p in (ROOT/'docs').rglob('*.html'))
WIDE, NARROW, SCHEMES = (1280, 800), (390, 844), ('light', 'dark')
FLAGS = '--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'

# Each script lists what it found wrong
PICTURES = "return [...document.images].filter(i => !(i.complete && i.naturalWidth && i.alt.trim())).map(i => [i.naturalWidth, i.alt, i.src.slice(0, 60)])"
FORMULAS = r"""
const bad = [...document.querySelectorAll('math')].filter(m => { const b = m.getBoundingClientRect(); return !(b.width && b.height) }).map(m => m.textContent)
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
for (let t; t = walk.nextNode();) if (/\$\$|\\[(\[]/.test(t.data) && !t.parentElement.closest('pre, code, script, style')) bad.push(t.data.trim())
return bad
"""
DARK = "const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g); return r < 100 && document.documentElement.classList.contains('quarto-dark')"
# What is beyond the right edge, too: the theme clips it, so that it makes no page wider. A box that scrolls may hold it
SIDEWAYS = """
const wide = document.documentElement.scrollWidth > innerWidth + 1 ? [[document.documentElement.scrollWidth, innerWidth]] : []
const held = e => { while (e = e.parentElement) if (e !== document.body && ['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX)) return true }
const cut = [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().width && e.getBoundingClientRect().right > innerWidth + 1 && !held(e))
return [...wide, ...cut.map(e => e.outerHTML.slice(0, 120))]
"""
# The colour of every text that is seen, against whatever lies behind it; a pixel of a canvas reads any notation of a colour
CONTRAST = """
const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', {willReadFrequently: true}), read = {}, seen = new Map()
const rgba = c => read[c] ??= (pen.clearRect(0, 0, 1, 1), pen.fillStyle = c, pen.fillRect(0, 0, 1, 1), [...pen.getImageData(0, 0, 1, 1).data].map((v, i) => i < 3 ? v : v/255))
const over = (top, under, opacity = 1) => under.map((v, i) => v + (top[i] - v)*top[3]*opacity)
const behind = e => { if (!e) return rgba('Canvas').slice(0, 3); if (!seen.has(e)) seen.set(e, over(rgba(getComputedStyle(e).backgroundColor), behind(e.parentElement))); return seen.get(e) }
const opacity = e => e ? getComputedStyle(e).opacity*opacity(e.parentElement) : 1
const light = c => c.map(v => v/255).map(v => v <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4).reduce((s, v, i) => s + v*[.2126, .7152, .0722][i], 0)
const ratio = (a, b) => { const [x, y] = [light(a), light(b)]; return (Math.max(x, y) + .05)/(Math.min(x, y) + .05) }
const walk = document.createTreeWalker(arguments[0] ?? document.body, NodeFilter.SHOW_TEXT), bad = {}
let count = 0
for (let t; t = walk.nextNode();) {
  const e = t.parentElement
  if (!t.data.trim() || !e.checkVisibility({visibilityProperty: true, opacityProperty: true}) || e.closest('script, style')) continue
  const style = getComputedStyle(e), back = behind(e), r = ratio(over(rgba(style.color), back, opacity(e)), back)
  count++
  if (r < 4.5) bad[[e.localName, e.className, style.color, back.map(Math.round), r.toFixed(2)].join(' ')] ??= t.data.trim().slice(0, 40)
}
return [count, bad]
"""


@pytest.fixture(scope='module')
def site():
    "Where `docs/` is served: in a folder below the root, as GitHub does it."
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=ROOT)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/docs/'
        server.shutdown()


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    chromium, driver = shutil.which('chromium'), shutil.which('chromedriver')
    if not (chromium and driver):
        why = 'no chromium and chromedriver on the PATH (Debian: apt-get install chromium chromium-driver)'
        (pytest.fail if os.environ.get('CI') else pytest.skip)(why)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS.split(): options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.add_argument('--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1')  # what asks for another host is seen, and gets nothing
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def show(browser, size, scheme='light'):
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=size[0], height=size[1], deviceScaleFactor=1, mobile=size == NARROW))
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [{'name': 'prefers-color-scheme', 'value': scheme}, {'name': 'prefers-reduced-motion', 'value': 'reduce'}]})
    assert browser.execute_script(f"return innerWidth === {size[0]} && matchMedia('(prefers-color-scheme: {scheme})').matches")
    if browser.current_url.startswith('http'): WebDriverWait(browser, 10).until(lambda b: b.execute_script(DARK) == (scheme == 'dark'))  # the page follows a moment later


def console(browser):
    return [e['message'] for e in browser.get_log('browser') if e['level'] == 'SEVERE']


def requests(browser):
    events = [json.loads(e['message'])['message'] for e in browser.get_log('performance')]
    return [e['params']['request']['url'] for e in events if e['method'] == 'Network.requestWillBeSent']


@pytest.fixture(scope='module', params=PAGES)
def page(browser, site, request):
    "The browser at a page of the site, which is loaded once for all tests."
    show(browser, WIDE)
    console(browser), requests(browser)  # forget those of the page before
    browser.get(site + request.param)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    return browser


def test_every_page_is_here(): assert {'index.html', 'model.html'} < set(PAGES)


def test_a_page_loads_quietly_and_from_its_site_alone(page, site):
    asked = requests(page)
    assert page.current_url in asked
    assert [u for u in asked if not u.startswith((site, 'data:'))] == []
    assert console(page) == []


def test_every_picture_is_there_and_said_in_words(page): assert page.execute_script(PICTURES) == []


def test_every_formula_is_set(page): assert page.execute_script(FORMULAS) == []


@pytest.mark.parametrize('scheme', SCHEMES)
def test_every_text_can_be_read(page, scheme):
    show(page, WIDE, scheme)
    count, bad = page.execute_script(CONTRAST)
    assert count > 50 and bad == {}


def test_nothing_scrolls_sideways_on_a_telephone(page):
    show(page, NARROW)
    assert page.execute_script(SIDEWAYS) == []


def test_a_reader_who_wants_the_other_scheme_keeps_it(browser, site):
    browser.get(site)
    show(browser, WIDE)
    browser.find_element(By.CLASS_NAME, 'quarto-color-scheme-toggle').click()
    WebDriverWait(browser, 10).until(lambda b: b.execute_script(DARK))
    browser.get(site + 'model.html')
    WebDriverWait(browser, 10).until(lambda b: b.execute_script(DARK))
    browser.execute_script('localStorage.clear()')


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('size', [WIDE, NARROW], ids=['wide', 'narrow'])
def test_search_finds_a_class(browser, site, size, scheme):
    wait = WebDriverWait(browser, 10)
    browser.get(site)
    show(browser, size, scheme)
    if size == NARROW: browser.find_element(By.CLASS_NAME, 'navbar-toggler').click()
    field = browser.find_element(By.CSS_SELECTOR, '#quarto-search input')
    wait.until(lambda b: field.is_displayed())
    field.send_keys('DynamicUnet34')
    result = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, '.smalldocs-search-results.show a'))
    field.send_keys(Keys.ARROW_DOWN)  # marks the first result: another background
    assert 'active' in result.get_attribute('class')
    count, bad = browser.execute_script(CONTRAST, browser.find_element(By.CLASS_NAME, 'smalldocs-search-results'))
    assert count > 1 and bad == {}
    assert browser.execute_script(SIDEWAYS) == []
    result.click()
    wait.until(lambda b: b.current_url.endswith('.html#dynamicunet34'))
    assert urlsplit(browser.current_url).path == '/docs/model.html'
    heading = browser.find_element(By.ID, 'dynamicunet34')
    assert 'DynamicUnet34' in heading.text
    wait.until(lambda b: b.execute_script('const b = arguments[0].getBoundingClientRect(); return b.top >= document.getElementById("quarto-header").offsetHeight - 1 && b.bottom < innerHeight', heading))
