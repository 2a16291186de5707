"""Make the site in `docs/` and README.md from the notebooks as they are stored, without Quarto and without running a lesson.

`python tools/site.py build` writes them. `python tools/site.py check` builds in a temporary folder and lists what is stale in
the working tree, which it leaves alone. Both list dead links and anchors, and anything that a page would ask the network for.
The sources stay stock Quarto: where Quarto is installed, `nbdev_docs` makes the same pages from them.
"""
import base64
import html
import json
import os
import re
import shutil
import sys
import tempfile
import unicodedata
import warnings
from contextlib import redirect_stdout
from html.parser import HTMLParser
from importlib.metadata import files
from io import StringIO
from pathlib import Path
from posixpath import join, normpath
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r'(?<=\]\()[^\s()]+|(?:(?<=\bsrc=")|(?<=\bhref="))[^"]+')
ADDRESS = re.compile(' at 0x[0-9a-f]{6,}')  # in the signature of a function whose default is a function; another one in every build
ICON = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'><path fill='rgb(29,105,189)' d='M0 8C3 8 2 1 4 1s1 7 4 7'/></svg>"  # a dome of salt; without one, browsers ask for a file that is not there
STOCK = re.compile('output-file|respect-user-color-scheme|commonmark|keep-md|broken link')  # what smalldocs says of stock settings, or `check_links` says too


# ---- the notebooks, processed by nbdev in a copy of the project

def process(work: Path, problems: list) -> tuple[dict, str]:
    "Copy the sources to `work`, have nbdev process the notebooks there: they by file name, and the address nbdev gives the site."
    skip = shutil.ignore_patterns('.*', '__pycache__', '_proc', 'data', 'sidebar.yml')
    for name in ('nbs', 'salt_tgs'): shutil.copytree(ROOT/name, work/name, ignore=skip)
    shutil.copy(ROOT/'settings.ini', work)
    os.chdir(work)
    sys.path[0] = str(work)
    from nbdev.config import get_config
    from nbdev.doclinks import _build_modidx
    from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    _build_modidx()
    nbdev_sidebar.__wrapped__()
    with warnings.catch_warnings(record=True) as caught, redirect_stdout(StringIO()):
        warnings.simplefilter('always')
        try: proc_nbs(n_workers=0, force=True)
        finally: os.chdir(ROOT)
    problems += [str(w.message).strip() for w in caught if 'imports and other code' in str(w.message)]
    nbs = {p.name: json.loads(p.read_text(encoding='utf-8')) for p in sorted((work/'_proc').glob('*.ipynb'))}
    problems += [f"{name}: no documentation came of {''.join(c['source']).splitlines()[-1]}" for name, nb in nbs.items() for c in nb['cells']
                 if c['cell_type'] == 'code' and re.search('(?m)^show_doc', ''.join(c['source'])) and
                 not any('text/markdown' in o.get('data', {}) for o in c['outputs'])]
    cfg = get_config(path=work)
    return nbs, f"{cfg.doc_host.rstrip('/')}/{cfg.doc_baseurl.strip('/')}/"


def page_name(name: str) -> str:
    "The site's name for a notebook: `00_data.ipynb` gives `data.ipynb`."
    return re.sub(r'^\d+[a-zA-Z0-9]*_', '', name)


def outside_code(text: str, f) -> str:
    "`text` with `f` applied to what is not fenced code."
    parts = re.split(r'(?ms)(^```.*?^```[ \t]*$)', text)
    return ''.join(p if i % 2 else f(p) for i, p in enumerate(parts))


def doctests(text: str) -> str:
    "`text` with its `>>>` examples as code; Markdown takes them for quotations."
    return re.sub(r'(?m)^>>> .*(?:\n.+)*', lambda m: f'```python\n{m[0]}\n```', text)


def unlink(text: str) -> str:
    "`text` without the links in its fenced code: nbdev also links what the comments of a signature name."
    return re.sub(r'(?ms)^```.*?^```', lambda m: re.sub(r'\[(`[^`\n]+`)\]\([^\s()]+\)', r'\1', m[0]), text)


def relink(cells: list, link) -> list:
    "Copies of `cells`, with `link` applied to each link in their Markdown and in their Markdown outputs."
    def fix(text): return outside_code(''.join(text), lambda s: LINK.sub(lambda m: link(m[0]), s))
    def output(out):
        data = out.get('data', {})
        return out | {'data': data | {k: ADDRESS.sub('', outside_code(unlink(fix(v)), doctests)) for k, v in data.items() if k == 'text/markdown'}} if data else out
    return [c | {'source': fix(c['source'])} if c['cell_type'] == 'markdown' else
            c | {'source': ''.join(c['source']), 'outputs': [output(o) for o in c.get('outputs', [])]} for c in cells]


# ---- the site, rendered by smalldocs

def render(proc: Path, nbs: dict, host: str, problems: list) -> dict:
    "The site's files by path, from the processed notebooks in `proc`."
    from smalldocs import site as smalldocs
    from smalldocs.check import scan
    pages = {page_name(name) for name in nbs}
    def link(url):
        path, hash_, anchor = url.removeprefix(host).removeprefix('./').partition('#')
        name = page_name(path).removesuffix('.html').removesuffix('.ipynb') + '.ipynb'
        return name + hash_ + anchor if name in pages and path.endswith(('.ipynb', '.html')) else url
    for name, nb in nbs.items():
        nb = nb | {'cells': relink(nb['cells'], link)}
        text = '\n'.join(c['source'] for c in nb['cells'] if c['cell_type'] == 'markdown')
        problems += [f'{name}: {why}' for _, why in scan(text)]
        (proc/name).unlink()
        (proc/page_name(name)).write_text(json.dumps(nb), encoding='utf-8')
    sidebar = proc/'sidebar.yml'
    sidebar.write_text(re.sub(r'(?<=- )\S+\.ipynb', lambda m: page_name(m[0]), sidebar.read_text(encoding='utf-8')), encoding='utf-8')
    site = smalldocs.build(proc, quiet=True)
    problems += [w for w in site.warnings if not STOCK.search(w)]
    made = {p.relative_to(site.out).as_posix(): p.read_bytes() for p in sorted(site.out.rglob('*')) if p.is_file()}
    del made['sitemap.xml']  # holds dates
    for name, data in made.items():
        if name.endswith('.html'): made[name] = mathml(data.decode(), name, problems).replace('</title>', f'</title><link rel="icon" href="data:image/svg+xml,{ICON}">', 1).encode()
        if name.endswith('.css'): made[name] = re.sub(rb'@import url\([^)]*\);?', b'', data)  # web fonts
    for file in files('smalldocs'):
        if file.name == 'LICENSE' and 'licenses' in file.parts:
            made[f"site_libs/licenses/{file.parent.name if 'vendor' in file.parts else 'smalldocs'}.txt"] = file.locate().read_bytes()
    return made


def mathml(page: str, name: str, problems: list) -> str:
    "`page` with its formulas as MathML, instead of KaTeX from a server."
    from latex2mathml.converter import convert
    def formula(m):
        try: out = convert(html.unescape(m[2]).replace('{aligned}', '{align*}'), display='block' if m[1] == 'display' else 'inline')
        except Exception as e:
            problems.append(f'{name}: formula {m[2]}: {type(e).__name__}')
            return m[0]
        out = re.sub(r'(<mi>[a-z]{2,}</mi>)(?=<m[in])', r'\1<mspace width="0.167em" />', out)  # log p, not logp
        out = out.replace('<mo stretchy="false">&#x0007C;</mo>', '<mo stretchy="false" lspace="0" rspace="0">&#x0007C;</mo>')
        return re.sub(r'(<m[in]) mathvariant="(bold|bold-italic|double-struck|script|fraktur)">([^<]+)', styled, out)
    def styled(m):  # browsers heed no other `mathvariant` than `normal`: the styled character itself
        char = unicodedata.name(html.unescape(m[3])).replace('LATIN ', '').replace('GREEK ', '').replace('LETTER ', '')
        try: return f"{m[1]}>{unicodedata.lookup(f'MATHEMATICAL {m[2]} {char}'.upper().replace('BOLD-', 'BOLD '))}"
        except KeyError: return m[0]
    page = re.sub(r'(?s)<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', formula, page)
    return re.sub(r'<(?:link|script)[^>]*/katex@[^>]*>(?:</script>)?\s*', '', page)


# ---- README.md from the index

def readme(nbs: dict, host: str, made: dict) -> str:
    "The index notebook in GitHub's Markdown, with links to the notebooks; its pictures join `made`."
    from smalldocs.markdown import split_front_matter
    from smalldocs.notebook import cell_options
    by_page = {page_name(n).replace('.ipynb', '.html'): n for n in nbs}
    def link(url):
        path = url.removeprefix(host).removeprefix('./').partition('#')[0]
        path = by_page.get(path, path)
        return f'nbs/{path}' if path and (ROOT/'nbs'/path).is_file() else url
    front, *cells = relink(nbs['index.ipynb']['cells'], link)
    front, _ = split_front_matter(''.join(front['source']))
    parts = [f"# {front['title']}", f"> {front['description']}" if 'description' in front else '']
    for cell in cells:
        opts, code = cell_options(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(outside_code(cell['source'], github))
        elif opts.get('include') is not False:
            if opts.get('echo') is not False: parts.append(f'```python\n{code.strip()}\n```')
            if opts.get('output') is not False: parts += [output(o, opts, made) for o in cell['outputs']]
    return re.sub(r'\n{3,}', '\n\n', '\n\n'.join(p.strip('\n') for p in parts)).rstrip() + '\n'


def github(text: str) -> str:
    "Pandoc's call-outs, divs and attributes in GitHub's terms."
    def alert(m): return '\n'.join([f'> [!{m[1].upper()}]', *(f'> {line}'.rstrip() for line in m[2].strip().split('\n'))])
    text = re.sub(r'(?ms)^:::+ *\{\.callout-(\w+)[^}]*\}\s*?\n(.*?)^:::+ *$', alert, text)
    return re.sub(r'(?m)^:::+.*\n?|(?<=[)\]`])\{[^}\n]*\}| +\{[#.][^}\n]*\}$', '', text)


def output(out: dict, opts: dict, made: dict) -> str:
    "One output of a cell as Markdown; a picture joins `made`."
    data = {k: ''.join(v) for k, v in (out.get('data') or {'text/plain': out.get('text', '')}).items()}
    if 'image/png' in data:
        name = f"docs/index_files/figure-{1 + sum(n.startswith('docs/index_files/') for n in made)}.png"
        made[name] = base64.b64decode(data['image/png'])
        return f"![{opts.get('fig-alt') or opts.get('fig-cap') or ''}]({name})"
    if 'text/markdown' in data: return github(data['text/markdown'])
    if 'text/html' in data: return re.sub(r'\n\s*\n', '\n', re.sub(r'(?s)<style.*?</style>', '', data['text/html']))
    return f"```\n{data['text/plain'].rstrip()}\n```" if data.get('text/plain') else ''


# ---- links

class Page(HTMLParser):
    "A page's anchors, its links, and what it loads by itself."
    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.loads = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs.get('id'), attrs.get('name')}
        (self.links if tag == 'a' else self.loads).update(attrs[k] for k in ('href', 'src') if attrs.get(k))


def check_links(site: dict, problems: list) -> None:
    "Find dead links and anchors, and loads from the network; a link to a method that has no entry is led to its class."
    pages = {name: Page(data.decode()) for name, data in site.items() if name.endswith('.html')}
    for name, page in pages.items():
        for url in sorted(page.links | page.loads):
            at = urlsplit(url)
            path = normpath(join(name, '..', unquote(at.path))) if at.path else name
            owner = at.fragment.rpartition('.')[0]
            if at.scheme == 'data': continue
            if at.scheme or at.netloc: problems += [f'{name}: loads {url}'] if url in page.loads else []
            elif path not in site and path != '.': problems.append(f'{name}: dead link {url}')
            elif at.fragment and path in pages and unquote(at.fragment) not in pages[path].ids:
                if owner in pages[path].ids: site[name] = site[name].replace(f'"{url}"'.encode(), f'"{at.path}#{owner}"'.encode())
                else: problems.append(f'{name}: dead anchor {url}')
    loads = re.compile(rb'(?:@import|url\()\s*[\'"(]*(?:https?:)?//')
    problems += [f'{name}: loads from the network' for name, data in site.items() if name.endswith('.css') and loads.search(data)]


# ---- the two commands

def make() -> tuple[dict, list]:
    "All that is made from the notebooks, as bytes by path from the project's root, and what is wrong with it."
    problems = []
    with tempfile.TemporaryDirectory(prefix='site-') as tmp:
        work = Path(tmp).resolve()
        nbs, host = process(work, problems)
        made = {f'nbs/{name}': (work/'nbs'/name).read_bytes() for name in ('_quarto.yml', 'nbdev.yml')}
        text = readme(nbs, host, made)
        site = render(work/'_proc', nbs, host, problems)
    check_links(site, problems)
    made |= {f'docs/{name}': data for name, data in site.items()} | {'README.md': text.encode()}
    found = set()
    outside_code(text, lambda part: found.update(LINK.findall(part)) or part)
    paths = {unquote(urlsplit(url).path) for url in found if not urlsplit(url).scheme} - {''}
    problems += [f'README.md: dead link {p}' for p in sorted(paths) if p not in made and not (ROOT/p).exists()]
    return made, problems


def main(command: str) -> int:
    "Build or check; how many things there are to look at."
    made, problems = make()
    if command == 'build':
        shutil.rmtree(ROOT/'docs', ignore_errors=True)
        for name, data in made.items():
            (ROOT/name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT/name).write_bytes(data)
    there = {p.relative_to(ROOT).as_posix() for p in (ROOT/'docs').rglob('*') if p.is_file()}
    stale = sorted(there - made.keys()) + [n for n, data in made.items() if not (ROOT/n).is_file() or (ROOT/n).read_bytes() != data]
    for line in [f'stale: {n}' for n in stale] + problems: print(line)
    print(f'{len(made)} files from the notebooks, {len(stale)} stale, {len(problems)} other things to look at')
    return len(stale) + len(problems)


if __name__ == '__main__':
    if sys.argv[1:] not in (['build'], ['check']): sys.exit(__doc__)
    sys.exit(1 if main(sys.argv[1]) else 0)
