"What can go wrong, and what happens then. A test that shows it is marked with the fault's name; the page of faults is made from both."
import ast
from pathlib import Path

import pytest

FAULTS = {
    'malicious checkpoint': 'Weights are tensors and JSON, a checkpoint is read in torch\'s safe mode, and a pickle is refused wherever it is put; nothing in it runs.',
    'corrupt or cut weights': 'One clear error names the file: the sha256, the tensors\' names and shapes and every number are checked.',
    'kill during save': 'The old file or the new one is there, never half of one; a checkpoint names only what was written before it. The half that was being written has a hidden name of its own, and the fold removes it when it goes on.',
    'stop and go on': 'SIGINT and SIGTERM: the batch is finished and saved, exit code 130 or 143. `--resume` ends with the weights, or the mask, of a run that was never stopped, and refuses other data or settings.',
    'a new run over an old one': 'Refused without `--resume` or `--overwrite`; no file of the old run has changed.',
    'NaN or infinite loss': 'The training stops before the step, and names epoch, batch and tiles; weights and checkpoint are those from before.',
    'out of memory': 'Training says which batch size to try; prediction halves its batches by itself, and the answer is the same.',
    'disk full': 'Room is looked for before a run; a write that fails says so in a line, leaves no half file and nothing old is lost.',
    'broken, disguised or huge image': 'Refused by name before it is decoded; `check-data` lists all bad files at once.',
    'wrong mask values': 'Only 0 and one of 1, 255 and 65,535 make a mask; everything else is refused, in whatever mode it is stored.',
    'malformed CSV or RLE': 'A mask, or an error that names the line; nothing is guessed.',
    'invalid submission': 'Exactly the ids of the sample, in its order, checked before the file gets its name.',
    'broken survey': 'Cut files, headers of zeros and what is no SEG-Y at all are named, and nothing is written; without geometry it is one line, and that is said.',
    'archive traversal, bomb': 'Nothing is unpacked to the disk; an archive with a member that points outside, is a link, is there twice or unpacks without measure is refused.',
    'two people, one tile': 'The later one is shown the earlier decision, and nothing of it is overwritten; all that was ever decided stays.',
    'a stranger at the page': 'Only this machine is served unless it is asked for; other names, other pages, unknown ids, links out of the folder and what is no mask are refused.',
    'dead worker': 'A fold that is trained beside others goes on in another worker, from its checkpoint; a survey\'s panel goes to another worker. Weights and answer are the same. (A training\'s batches are made in its own process.)',
    'not repeatable': 'The same machine, versions and seed give the same weights and submission; folds do not depend on the order of files.',
    'the engine cannot run on this processor': 'A warning says so, and torch predicts, more slowly and the same.',
    'wrong weights for the network': 'Architecture, normalisation and frame are written down with the weights and compared.',
}


def fault(name: str): # a decorator
    "Mark a test as one that shows what happens at a fault."
    assert name in FAULTS, f'{name}: not among the faults'
    return pytest.mark.fault(name)


def marked() -> dict: # fault -> names of the tests that are marked with it
    "Which tests show which fault, read from their own marks."
    tests = {name: [] for name in FAULTS}
    for path in sorted(Path(__file__).parent.glob('test_*.py')):
        for f in ast.walk(ast.parse(path.read_text())):
            if not isinstance(f, ast.FunctionDef): continue
            for mark in f.decorator_list:
                if isinstance(mark, ast.Call) and getattr(mark.func, 'id', '') == 'fault': tests[mark.args[0].value].append(f'{path.name}::{f.name}')
    return tests


def table() -> str: # Markdown
    "The page of faults: one row each."
    code = lambda test: f'<code>{test.replace("::", "::<wbr>").replace("_", "_<wbr>")}</code>'  # may be broken there
    rows = [f'| **{name}** | {FAULTS[name]} | {"<br>".join(map(code, tests))} |' for name, tests in marked().items()]
    return '\n'.join(['| fault | what happens | tests |', '|---|---|---|', *rows])
