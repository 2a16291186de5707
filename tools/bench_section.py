"""Draw surveys, mark their salt by the command, and note seconds, peak memory, and what workers gain.

`python tools/bench_section.py` takes some twenty minutes of two idle cores and the extras `segy`, `mdio` and `dask`, and writes
`nbs/results/section.json`. A volume of 1 GB (`--size`) is predicted with all threads, killed -9 after a third, and resumed; its answer is
compared with its input header by header, read by `segyio`, and imported by `multidimio`. A smaller volume is predicted
by one Dask worker of one thread and by two.
Each measurement is a run of the command from start to end, and they take turns; a
speedup is taken within a round. What a start costs (imports, the networks, the scan of the headers, Dask) is in the seconds, and
`panels_per_second` counts without it: from the first finished panel to the last. Peak memory is that of all processes of a run
together, looked at once a second (looking costs time, too), as resident pages (`rss`, which counts shared pages once for each process)
and with shared pages divided among those who share them (`pss`).
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')
FLAGS = ['--overlap', '0.25', '--no-tta']


def family(pid: int) -> list[int]:
    "A process and all that it started."
    try: below = [int(c) for t in os.listdir(f'/proc/{pid}/task') for c in Path(f'/proc/{pid}/task/{t}/children').read_text().split()]
    except OSError: return []
    return [pid, *(p for c in below for p in family(c))]


def memory(pid: int) -> dict: # MB
    "What a process and its children hold."
    total = dict(rss=0, pss=0)
    for p in family(pid):
        try: lines = Path(f'/proc/{p}/smaps_rollup').read_text().splitlines()
        except OSError: continue
        for line in lines:
            if line.startswith(('Rss:', 'Pss:')): total[line[:3].lower()] += int(line.split()[1]) / 1024
    return total


def chunks(out: Path) -> int:
    "How many panels are done."
    try: return sum(f.name.endswith('.npz') and not f.name.startswith('.') for f in os.scandir(out.with_name(f'{out.name}.work')))
    except OSError: return 0


def measure(survey: Path, out: Path, more: list[str], threads: int, kill_at: int | None=None) -> dict:
    "One run of the command, to its end or until so many panels are done."
    env = os.environ | {k: str(threads) for k in THREADS}
    seen, peak, began, looked = [], dict(rss=0., pss=0.), time.perf_counter(), 0.
    p = subprocess.Popen([sys.executable, '-c', 'from salt_tgs.cli import main; raise SystemExit(main())', 'section', survey, '--out', out, *FLAGS, *more], env=env)
    while p.poll() is None:
        if time.perf_counter() - looked > 1: peak, looked = {k: max(v, peak[k]) for k, v in memory(os.getpid() if '--scheduler' in more else p.pid).items()}, time.perf_counter()
        done = chunks(out)
        if done and (not seen or done > seen[-1][1]): seen.append((time.perf_counter(), done))
        if kill_at and done >= kill_at: os.kill(p.pid, signal.SIGKILL); p.wait(); break
        time.sleep(.1)
    if p.returncode != (-signal.SIGKILL if kill_at else 0): sys.exit(f'the command ended with {p.returncode}')
    (t0, n0), (t1, n1) = seen[0], seen[-1]
    return dict(seconds=round(time.perf_counter() - began, 1), panels_per_second=round((n1 - n0) / (t1 - t0), 3) if n1 > n0 else None, panels=chunks(out) if kill_at else None, **{f'peak_{k}_mb': round(v) for k, v in peak.items()})


def compare(survey: Path, out: Path, shape: tuple[int, int, int]) -> dict:
    "Whether every header is that of the input, and what segyio and multidimio read."
    import numpy as np
    import segyio
    a, b = (np.memmap(p, np.uint8, 'r', 3600, (shape[0] * shape[1], 240 + 4 * shape[2])) for p in (survey, out))
    same = survey.open('rb').read(3600) == out.open('rb').read(3600) and all(bool((a[k:k + 4096, :240] == b[k:k + 4096, :240]).all()) for k in range(0, len(a), 4096))
    with segyio.open(out) as f: lines, values, salt = (len(f.ilines), len(f.xlines), len(f.samples)), set(), 0
    with segyio.open(out) as f:
        for k in f.ilines: values |= set(np.unique(f.iline[k]).tolist()); salt += int((f.iline[k] > 0).sum())
    folder = out.with_suffix('.mdio')
    began, p = time.perf_counter(), subprocess.run([sys.executable, '-c', MDIO, str(out), str(folder)], capture_output=True, text=True, env=os.environ | {'MDIO__IMPORT__CPU_COUNT': '2'})
    if p.returncode: sys.exit(p.stderr)
    from salt_tgs.section import open_section
    mdio = open_section(folder)
    there = sum(int((mdio.panel(i)[0] > 0).sum()) for i in range(shape[0]))
    shutil.rmtree(folder)
    return dict(headers_equal=same, segyio=dict(shape=lines, values=sorted(values), salt=salt), mdio=dict(shape=mdio.shape, salt=there, seconds=round(time.perf_counter() - began, 1)))


MDIO = '''
import sys
from mdio import segy_to_mdio
from mdio.builder.template_registry import get_template
from segy.schema import HeaderField
from segy.standards import get_segy_standard
fields = [HeaderField(name=n, byte=b, format='int32') for n, b in (('inline', 189), ('crossline', 193), ('cdp_x', 181), ('cdp_y', 185))]
if __name__ == '__main__': segy_to_mdio(get_segy_standard(1.0).customize(trace_header_fields=fields), get_template('PostStack3DTime'), *sys.argv[1:])
'''


def draw(path: Path, megabytes: float, crosslines: int, samples: int) -> tuple[Path, tuple[int, int, int], dict]:
    "A survey of about that size."
    from salt_tgs.section import make_default_survey
    inlines = max(4, round(megabytes * 1e6 / (crosslines * (240 + 4 * samples))))
    began = time.perf_counter()
    survey, salt = make_default_survey(path, inlines, crosslines, samples)
    salt.unlink()
    return survey, (inlines, crosslines, samples), dict(bytes=survey.stat().st_size, inlines=inlines, crosslines=crosslines, samples=samples, seconds_to_draw=round(time.perf_counter() - began, 1))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--size', type=float, default=1030, help='of the large survey, MB; 0: leave it out')
    p.add_argument('--small', type=float, default=300, help='of the one that workers share, MB; 0: leave it out')
    p.add_argument('--rounds', type=int, default=3, help='of one worker and two')
    p.add_argument('--folder', help='where to draw them')
    p.add_argument('--out', type=Path, default=Path(__file__).parent.parent/'nbs'/'results'/'section.json')
    a = p.parse_args()
    from salt_tgs.training import commit
    flags = next((line.split(':')[1].split() for line in open('/proc/cpuinfo') if line.startswith('flags')), [])
    found = json.loads(a.out.read_text()) if a.out.exists() else {}
    found |= dict(cores=os.cpu_count(), processor=[f for f in ('avx2', 'avx512_vnni', 'avx512_bf16', 'amx_bf16') if f in flags], flags=' '.join(FLAGS), commit=commit())
    with tempfile.TemporaryDirectory(dir=a.folder) as tmp:
        if a.size:
            survey, shape, about = draw(Path(tmp)/'survey.sgy', a.size, 512, 768)
            out = Path(tmp)/'salt.sgy'
            killed = measure(survey, out, [], os.cpu_count(), shape[0] // 3)
            resumed = measure(survey, out, ['--resume'], os.cpu_count())
            found['large'] = dict(survey=about, killed=killed, resumed=resumed, answer=compare(survey, out, shape))
            for f in Path(tmp).iterdir(): f.unlink()
            print(json.dumps(found['large']), flush=True)
        if a.small:
            from distributed import LocalCluster
            os.environ |= {k: '1' for k in THREADS}
            survey, shape, about = draw(Path(tmp)/'small.sgy', a.small, 512, 768)
            rounds = []
            for k in range(a.rounds):
                found_here = []
                for n in (1, 2):
                    with LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None) as cluster: found_here.append(measure(survey, Path(tmp)/f'salt{k}-{n}.sgy', ['--scheduler', cluster.scheduler_address], 1))
                one, two = found_here
                rounds.append(dict(one=one, two=two, ratio=round(one['seconds'] / two['seconds'], 3), ratio_of_panels=round(two['panels_per_second'] / one['panels_per_second'], 3)))
                print(json.dumps(rounds[-1]), flush=True)
            found['workers'] = dict(survey=about, rounds=rounds)
    a.out.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__': main()
