"The page of faults says what the tests say."
import json
from pathlib import Path

from faults import FAULTS, marked, table


def test_every_fault_has_a_test():
    assert list(marked()) == list(FAULTS) and all(marked().values())


def test_the_page_is_current():
    page = json.loads((Path(__file__).parent.parent/'nbs'/'11_reliability.ipynb').read_text(encoding='utf-8'))
    shown = [''.join(o['data']['text/markdown']) for c in page['cells'] for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})]
    assert shown == [table()], 'run `python tools/execute.py nbs/11_reliability.ipynb`'
