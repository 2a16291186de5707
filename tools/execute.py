"""Run notebooks top to bottom and store what they show: `python tools/execute.py nbs/01_model.ipynb ...`, or all of them.

Each runs in a process of its own, in the folder of the notebooks. A cell that `nbdev_test` skips keeps its outputs; a cell that
fails leaves the file as it was. What goes to stderr is dropped, so that a second run leaves no difference.
"""
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'


def execute(path: Path) -> None:
    "Run the notebook at `path` in this process and write it back, cleaned."
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell
    from nbdev.clean import nbdev_clean
    from nbdev.config import get_config
    from nbdev.process import extract_directives
    os.chdir(NBS)
    sys.path[0] = str(ROOT)
    flags = set(get_config().tst_flags.split())

    def skipped(cell):
        if cell.cell_type != 'code' or 'nbdev_export(' in cell.source: return True
        found = extract_directives(cell, remove=False)
        return found.get('eval:', [''])[0].lower() == 'false' or bool(flags & found.keys())

    nb = read_nb(path)
    for cell in nb.cells:
        if not skipped(cell): cell.outputs = []
    shell = CaptureShell(path, mpl_format='png')
    try: shell.run_all(nb, exc_stop=True, preproc=skipped)
    except Exception: sys.exit(shell.prettytb(path.name))
    for cell in nb.cells:
        if not skipped(cell): cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
    for cell in nb.cells: check_paths(cell, path.name)
    write_nb(nb, path)
    nbdev_clean.__wrapped__(str(path))


def check_paths(cell: dict, name: str) -> None:
    "Refuse an output that shows a folder of this machine."
    places = {str(ROOT), str(Path.home()), os.environ.get('SALT_TGS_DATA', '').rstrip('/')} - {'', '/'}
    for out in cell.get('outputs', []):
        texts = [v for k, v in out.get('data', {}).items() if k.startswith('text/')] + [out.get('text', '')]
        shown = [p for p in places if p in ''.join(''.join(t) for t in texts)]
        if shown: sys.exit(f'{name}: an output shows the path {shown[0]}:\n{cell.source}')


def main(paths: list[str]) -> int:
    "Run the notebooks at `paths`, one after another; the number of those that failed."
    env = os.environ | {'PYTHONHASHSEED': '0'}
    failed = 0
    for path in [Path(p).resolve() for p in paths] or sorted(NBS.glob('[!_.]*.ipynb')):
        start = time.time()
        code = subprocess.run([sys.executable, __file__, '--here', str(path)], env=env, stdin=subprocess.DEVNULL).returncode
        print(f'{path.name}: {"failed" if code else "done"}, {time.time() - start:.0f} s', flush=True)
        failed += code != 0
    return failed


if __name__ == '__main__':
    if sys.argv[1:2] == ['--here']: execute(Path(sys.argv[2]))
    else: sys.exit(1 if main(sys.argv[1:]) else 0)
