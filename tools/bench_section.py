"""Draw a survey of a given size, mark its salt by the command, and print JSON: seconds, peak memory, what workers gain.

`python tools/bench_section.py [--size 200] [--crosslines 256] [--samples 256] [--workers 1 2] [--rounds 1] [--folder DIR] -- --no-tta --overlap 0.25`
wants the extras `segy` and `dask`. Each measurement is a process of its own from start to end, with one thread a worker,
and they take turns; a speedup is taken within a round. What a start costs (imports, the networks, the scan of the headers,
Dask) is in the seconds, and `panels_per_second` counts without it: from the first finished panel to the last. Peak memory
is that of all processes of a run together, looked at ten times a second, as resident pages (`rss`, which counts shared
pages once for each process) and with shared pages divided among those who share them (`pss`).
"""
import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = {k: '1' for k in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')}


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


def measure(survey: Path, out: Path, workers: int, more: list[str]) -> dict:
    "One run of the command."
    work, seen, peak = out.with_name(f'{out.name}.work'), [], dict(rss=0., pss=0.)
    began = time.perf_counter()
    p = subprocess.Popen([sys.executable, '-c', 'from salt_tgs.cli import main; raise SystemExit(main())', 'section', survey, '--out', out, '--workers', str(workers), *more], env=os.environ | THREADS)
    while p.poll() is None:
        peak = {k: max(v, peak[k]) for k, v in memory(p.pid).items()}
        try: done = sum(f.name.endswith('.npz') and not f.name.startswith('.') for f in os.scandir(work))
        except OSError: done = 0
        if done and (not seen or done > seen[-1][1]): seen.append((time.perf_counter(), done))
        time.sleep(.1)
    if p.returncode: sys.exit(f'the command ended with {p.returncode}')
    seconds = time.perf_counter() - began
    (t0, n0), (t1, n1) = seen[0], seen[-1]
    for f in (out, out.with_name(f'{out.name}.json')): f.unlink()
    return dict(workers=workers, seconds=round(seconds, 1), panels_per_second=round((n1 - n0) / (t1 - t0), 3) if n1 > n0 else None, **{f'peak_{k}_mb': round(v) for k, v in peak.items()})


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--size', type=float, default=200, help='of the survey, MB')
    p.add_argument('--crosslines', type=int, default=256)
    p.add_argument('--samples', type=int, default=256)
    p.add_argument('--workers', type=int, nargs='+', default=[1, 2])
    p.add_argument('--rounds', type=int, default=1)
    p.add_argument('--folder', help='where to draw it')
    p.add_argument('more', nargs='*', help='flags of the command, after --')
    a = p.parse_args()
    from salt_tgs.section import make_default_survey
    with tempfile.TemporaryDirectory(dir=a.folder) as tmp:
        inlines = max(2, round(a.size * 1e6 / (a.crosslines * (240 + 4 * a.samples))))
        began = time.perf_counter()
        survey, _ = make_default_survey(Path(tmp)/'survey.sgy', inlines, a.crosslines, a.samples)
        drawn = time.perf_counter() - began
        rounds = [[measure(survey, Path(tmp)/'salt.sgy', n, a.more) for n in a.workers] for _ in range(a.rounds)]
        rates = [[r['panels_per_second'] for r in one] for one in rounds]
        print(json.dumps(dict(machine=platform.processor() or platform.machine(), cores=os.cpu_count(), free_disk_gb=round(shutil.disk_usage(tmp).free / 1e9), survey=dict(megabytes=round(survey.stat().st_size / 1e6, 1), inlines=inlines, crosslines=a.crosslines, samples=a.samples, seconds_to_draw=round(drawn, 1)),
                              flags=a.more, rounds=rounds, speedup_of_panels=[[round(x / one[0], 2) if x and one[0] else None for x in one] for one in rates]), indent=1))


if __name__ == '__main__': main()
