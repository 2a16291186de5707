"What the notebooks promise their readers."
import ast
import json
import re
from pathlib import Path

import pytest

NBS = sorted((Path(__file__).parent.parent/'nbs').glob('[0-9]*.ipynb'))


def definitions(source):
    "Functions and classes of an exported cell; not constants, and not errors, which are seen where they are raised."
    if not re.search(r'^#\|\s*export(s|i)?\s*$', source, re.M): return []
    found = [n for n in ast.parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return [n.name for n in found if not (isinstance(n, ast.ClassDef) and any(getattr(b, 'id', '').endswith(('Error', 'Conflict')) for b in n.bases))]


@pytest.mark.parametrize('path', NBS, ids=lambda p: p.stem)
def test_each_definition_is_shown_before_the_next(path):
    "Between two exported cells with definitions stands a cell that a reader sees, and that does something."
    waiting, rows = [], []
    for cell in json.loads(path.read_text())['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code': continue
        if names := definitions(source):
            if waiting: rows.append(f'{waiting} before {names}')
            waiting = names
        elif not re.search(r'^#\|\s*(hide|export)', source, re.M): waiting = []
    assert not rows


@pytest.mark.parametrize('path', NBS, ids=lambda p: p.stem)
def test_a_notebook_is_small_enough_to_be_opened(path): assert path.stat().st_size < 1.5e6
