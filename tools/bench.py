"""Time this project's networks beside what people would otherwise take, and print JSON.

`python tools/bench.py --what predict [--rounds 5] [--sizes 128 256] [--batch 16] [--seconds 3] > nbs/results/speed.json` and
`--what train ... > nbs/results/training-speed.json` want `pip install segmentation-models-pytorch` and the extra `onnx`.
Each contender lives in a process of its own; they take turns, so that a disturbance hits all of them, and ratios are taken
within a round. A step of training is forward, cross entropy, backward and Adam, each one's own: fastai's, torch's beside
SMP, `FusedAdam`; random weights, random tiles: speed does not depend on them. `--batch` counts tiles of 128 pixels; of
larger ones a batch has as many fewer. Everything computes in 32 bits, apart from `bfloat16`, `rounded` and `shipped`, the
network of the package, which compute in what is fastest here. With data (`--data`, or where `find_data` looks) it also
times reading, scoring and run-length coding beside the loops that one finds in most solutions.

`python tools/bench.py --submission > nbs/results/submission.json` times the command that makes a submission of all test
tiles, and of a tenth of them, as whole processes, with the engine and (the tenth) without it.
"""
import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

BASE = 'SMP ResNet34'  # what ratios are relative to


def ours(encoder, channels, head='UpHead', block='UnetBlock'):
    from salt_tgs.model import BLOCKS, HEADS, Unet, create_encoder
    return Unet(create_encoder(encoder), channels, BLOCKS[block], HEADS[head])

def smp(encoder):
    import segmentation_models_pytorch
    return segmentation_models_pytorch.Unet(encoder, encoder_weights=None, decoder_attention_type='scse', in_channels=1)

def fastai_unet():
    from fastai.vision.all import create_unet_model
    from torchvision.models import resnet34
    return create_unet_model(resnet34, 1, (128, 128), pretrained=False, n_in=1)

CONTENDERS = {  # name: network, memory layout, engine
    BASE: (lambda: smp('resnet34'), False, 'torch'),
    'SMP Lite0': (lambda: smp('tu-tf_efficientnet_lite0'), False, 'torch'),
    'fastai ResNet34': (fastai_unet, False, 'torch'),
    'SMP ResNet34, bfloat16': (lambda: smp('resnet34'), False, 'short'),
    'fastai ResNet34, bfloat16': (fastai_unet, False, 'short'),
    'ours ResNet34': (lambda: ours('resnet34', (128, 128, 128, 128)), True, 'torch'),
    'ours ResNet34, bfloat16': (lambda: ours('resnet34', (128, 128, 128, 128)), True, 'short'),
    'ours Lite0': (lambda: ours('tf_efficientnet_lite0', (96, 64, 48, 32), 'HypercolumnHead', 'ConvUnetBlock'), True, 'torch'),
    'SMP ResNet34, OpenVINO': (lambda: smp('resnet34'), False, 'openvino'),
    'SMP Lite0, OpenVINO': (lambda: smp('tu-tf_efficientnet_lite0'), False, 'openvino'),
    'ours ResNet34, OpenVINO': (lambda: ours('resnet34', (128, 128, 128, 128)), False, 'openvino'),
    'ours Lite0, ONNX Runtime': (lambda: ours('tf_efficientnet_lite0', (96, 64, 48, 32), 'HypercolumnHead', 'ConvUnetBlock'), False, 'onnxruntime'),
    'ours Lite0, OpenVINO': (lambda: ours('tf_efficientnet_lite0', (96, 64, 48, 32), 'HypercolumnHead', 'ConvUnetBlock'), False, 'openvino'),
    'ours Lite0, OpenVINO, rounded': (lambda: ours('tf_efficientnet_lite0', (96, 64, 48, 32), 'HypercolumnHead', 'ConvUnetBlock'), False, 'rounded'),
    'shipped': (None, False, 'rounded')}
PAIRS = [('train', 'ours ResNet34', BASE), ('train', 'ours ResNet34', 'fastai ResNet34'), ('train', 'ours ResNet34, bfloat16', 'fastai ResNet34'),
         ('train', 'ours ResNet34, bfloat16', 'SMP ResNet34, bfloat16'), ('train', 'ours ResNet34, bfloat16', 'fastai ResNet34, bfloat16'), ('train', 'ours Lite0', 'SMP Lite0'),
         ('predict', 'ours ResNet34', BASE), ('predict', 'ours ResNet34', 'fastai ResNet34'), ('predict', 'ours Lite0', 'SMP Lite0'),
         ('predict', 'ours ResNet34, OpenVINO', 'SMP ResNet34, OpenVINO'), ('predict', 'ours Lite0, OpenVINO', 'SMP Lite0, OpenVINO'),
         ('predict', 'ours Lite0, OpenVINO', 'ours Lite0, ONNX Runtime'), ('predict', 'shipped', 'ours Lite0'), ('predict', 'shipped', BASE)]


def adam(name: str, parameters: list):
    "The optimiser that comes with a contender."
    if name.startswith('SMP'):
        from torch.optim import AdamW
        return AdamW(parameters, 1e-4)
    from fastai.optimizer import Adam
    from salt_tgs.training import FusedAdam
    return (Adam if name.startswith('fastai') else FusedAdam)(parameters, lr=1e-4)

def rate(step, n: int, seconds: float) -> float: # tiles a second
    "The median of as many calls as fit into the time, three at least."
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter(); step(); times.append(time.perf_counter() - start)
    return n / float(np.median(times))

def compiled(path: Path, engine: str, threads: int):
    "A function of a batch, run by an engine."
    if engine == 'onnxruntime':
        import onnxruntime
        options = onnxruntime.SessionOptions(); options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        return lambda x: session.run(None, {session.get_inputs()[0].name: x})
    from salt_tgs.engine import _openvino
    openvino = _openvino()
    wish = dict(PERFORMANCE_HINT='LATENCY', INFERENCE_NUM_THREADS=threads) | (dict(INFERENCE_PRECISION_HINT='f32') if engine == 'openvino' else {})
    request = openvino.Core().compile_model(str(path), 'CPU', wish).create_infer_request()
    return lambda x: request.infer({0: x})

def where_time_goes(path: Path, x: np.ndarray) -> dict[str, float]: # share of the time by kind of node, largest first
    "What an engine does while it predicts."
    from salt_tgs.engine import _openvino
    openvino = _openvino()
    request = openvino.Core().compile_model(str(path), 'CPU', dict(PERF_COUNT=True, INFERENCE_PRECISION_HINT='f32', PERFORMANCE_HINT='LATENCY')).create_infer_request()
    for _ in range(3): request.infer({0: x})
    spent = {}
    for node in request.get_profiling_info(): spent[node.node_type] = spent.get(node.node_type, 0) + node.real_time.total_seconds()
    return {k: round(v / sum(spent.values()), 3) for k, v in sorted(spent.items(), key=lambda kv: -kv[1]) if v > .01 * sum(spent.values())}

def work(name: str, threads: int, batch: int, seconds: float, pipe):
    "One contender: answers (what, size) by tiles a second."
    warnings.filterwarnings('ignore')
    os.dup2(2, 1)  # what exporters print is not the result
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from salt_tgs.training import fast_dtype
    torch.set_num_threads(threads)
    build, last, engine = CONTENDERS[name]
    short = lambda: torch.autocast('cpu', torch.bfloat16, enabled=engine == 'short' and fast_dtype('cpu') == torch.bfloat16)
    layout = torch.channels_last if last else torch.contiguous_format
    folder, graphs, about = Path(tempfile.mkdtemp()), {}, {}
    def file(size):
        path = folder/f'{size}.onnx'
        if build is None and size == 128: path = Path(__file__).parent.parent/'salt_tgs'/'weights'/'member00.onnx'
        elif build is None:
            from salt_tgs.engine import export_onnx
            from salt_tgs.ensemble import Ensemble
            net = Ensemble.load(engine=False).members[0]; net.meta['size'] = size
            export_onnx(net, path, np.random.default_rng(0).integers(0, 256, (32, 101, 101), np.uint8), most=1)
        elif not path.exists(): torch.onnx.export(model.eval(), (torch.zeros(2, 1, size, size),), path, dynamo=True, external_data=False, verbose=False, dynamic_shapes=({0: torch.export.Dim('n')},))
        return path
    def graph(size):
        if size not in graphs: graphs[size] = compiled(file(size), engine, threads)
        return graphs[size]
    if build is not None:
        torch.manual_seed(0)
        model = build().to(memory_format=layout)
        about = dict(parameters=sum(p.numel() for p in model.parameters()), gflop={})
    while (ask := pipe.recv()) is not None:
        what, size = ask
        n = max(1, batch * 128**2 // size**2)
        x = torch.rand(n, 1, size, size).contiguous(memory_format=layout)
        if what == 'about' and build is not None:
            with FlopCounterMode(display=False) as count, torch.inference_mode(): model.eval()(x[:1])
            about['gflop'][size] = round(count.get_total_flops() / 1e9, 3)
            pipe.send(about)
        elif what == 'about': pipe.send(about)
        elif what == 'profile': pipe.send(where_time_goes(file(size), x.numpy()))
        elif engine not in ('torch', 'short'):
            if what == 'train': pipe.send(None); continue
            run, tiles = graph(size), x.numpy()
            run(tiles); pipe.send(rate(lambda: run(tiles), n, seconds))
        elif what == 'predict':
            model.eval()
            with torch.inference_mode(), short(): model(x); pipe.send(rate(lambda: model(x), n, seconds))
        else:
            model.train(); y = (x > .5).float(); opt = adam(name, list(model.parameters()))
            def step():
                opt.zero_grad()
                with short(): out = model(x)
                torch.nn.functional.binary_cross_entropy_with_logits(out.float(), y).backward(); opt.step()
            step(); pipe.send(rate(step, n, seconds))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

def peak(threads: int, bits: int=32) -> float: # thousand millions of operations a second
    "A large matrix product, the best of five."
    import torch
    torch.set_num_threads(threads)
    a, best = torch.rand(2048, 2048), 0.
    if bits == 16: a = a.bfloat16()
    if bits == 8: a = (127 * a).to(torch.int8)
    for _ in range(6):
        start = time.perf_counter()
        if bits == 8: torch._int_mm(a, a)
        else: a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return round(best, 1)

def naive_score(pred: np.ndarray, truth: np.ndarray) -> float:
    "The official score as most solutions write it: tile by tile, threshold by threshold."
    scores = []
    for p, t in zip(pred, truth):
        if not t.any(): scores.append(float(not p.any())); continue
        iou = (p & t).sum() / (p | t).sum()
        scores.append(np.mean([iou > x for x in np.arange(.5, 1, .05)]))
    return float(np.mean(scores))

def naive_rle(mask: np.ndarray) -> str:
    "Run lengths as most solutions write them: pixel by pixel."
    runs, before = [], -2
    for at in np.where(mask.T.flatten() == 1)[0]:
        if at > before + 1: runs += [at + 1, 0]
        runs[-1] += 1
        before = at
    return ' '.join(map(str, runs))

def naive_read(root: Path) -> list[np.ndarray]:
    "All tiles as most solutions read them: unpack the archives, open file by file."
    from PIL import Image
    import zipfile
    with tempfile.TemporaryDirectory() as tmp:
        for name in ('train', 'test'): zipfile.ZipFile(root/f'{name}.zip').extractall(Path(tmp)/name)
        return [np.array([np.array(Image.open(p).convert(mode)) for p in sorted((Path(tmp)/kind).iterdir())]) for kind, mode in (('train/images', 'L'), ('train/masks', 'I'), ('test/images', 'L'))]

def everyday(root: Path, rounds: int) -> dict: # seconds
    "Reading, scoring, coding: ours and the usual loops, in turn, the median of some rounds."
    from salt_tgs.data import load_data, rle_encode_batch
    from salt_tgs.losses import tile_scores
    data = load_data(root)
    masks, pred = data.train.masks, np.roll(data.train.masks, 3, 2)
    tasks = {'score all labelled tiles': (lambda: tile_scores(pred, masks).mean(), lambda: naive_score(pred, masks)),
             'run lengths of all masks': (lambda: rle_encode_batch(masks), lambda: [naive_rle(m) for m in masks])}
    if (root/'train.zip').exists(): tasks['read all tiles'] = (lambda: load_data(root), lambda: naive_read(root))
    out = {}
    for name, pair in tasks.items():
        seconds = []
        for _ in range(rounds):
            row = []
            for call in pair: start = time.perf_counter(); call(); row.append(time.perf_counter() - start)
            seconds.append(row)
        out[name] = dict(ours=round(float(np.median([a for a, _ in seconds])), 3), usual=round(float(np.median([b for _, b in seconds])), 3), ratio=round(float(np.median([b / a for a, b in seconds])), 2))
    return dict(seconds=out, labelled=len(data.train), unlabelled=len(data.test))

def submission(root: Path, threads: int) -> list[dict]:
    "Whole processes from zipped test tiles to a submission: seconds and memory."
    import subprocess, zipfile
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        tenth = Path(tmp)/'tenth'; tenth.mkdir()
        lines = (root/'sample_submission.csv').read_text().splitlines()
        few = lines[:1 + len(lines) // 10]
        (tenth/'sample_submission.csv').write_text('\n'.join(few) + '\n')
        with zipfile.ZipFile(root/'test.zip') as old, zipfile.ZipFile(tenth/'test.zip', 'w') as new:
            for line in few[1:]: new.writestr(f'images/{line.split(",")[0]}.png', old.read(f'images/{line.split(",")[0]}.png'))
        for folder, engine, n in ((tenth, True, len(few) - 1), (tenth, False, len(few) - 1), (root, True, len(lines) - 1)):
            hide = '' if engine else 'import sys; sys.modules["openvino"] = None; '
            start = time.perf_counter()
            p = subprocess.Popen([sys.executable, '-c', hide + 'from salt_tgs.cli import main; raise SystemExit(main())', 'predict', str(folder), '--out', f'{tmp}/out'], stdout=sys.stderr, env=os.environ | dict(OMP_NUM_THREADS=str(threads)))
            _, status, used = os.wait4(p.pid, 0)
            if status: raise SystemExit('predict failed')
            rows.append(dict(tiles=n, engine='OpenVINO' if engine else 'torch', seconds=round(time.perf_counter() - start, 1), peak_memory_mb=used.ru_maxrss // 1024))
    return rows

def processor() -> str:
    flags = set(Path('/proc/cpuinfo').read_text().split('flags')[1].split('\n')[0].split()) if Path('/proc/cpuinfo').exists() else set()
    return f"{platform.machine()}, " + ', '.join(f for f in ('avx2', 'avx512f', 'avx_vnni', 'avx512_vnni', 'avx512_bf16', 'amx_bf16', 'amx_int8') if f in flags)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--rounds', type=int, default=5); p.add_argument('--sizes', type=int, nargs='+', default=[128, 256])
    p.add_argument('--batch', type=int, default=16); p.add_argument('--seconds', type=float, default=3.)
    p.add_argument('--data', type=Path)
    p.add_argument('--what', choices=['predict', 'train'], default='predict')
    p.add_argument('--only', nargs='+', choices=CONTENDERS); p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--submission', action='store_true')
    args = p.parse_args()
    if args.submission:
        from salt_tgs.data import find_data
        from salt_tgs.training import commit
        return print(json.dumps(dict(rows=submission(args.data or find_data(), args.threads), threads=args.threads, processor=processor(), commit=commit()), indent=1))
    args.only = args.only or [name for name, (_, _, engine) in CONTENDERS.items() if args.what == 'predict' or engine in ('torch', 'short')]
    if BASE not in args.only: args.only.insert(0, BASE)
    from salt_tgs.data import find_data
    from salt_tgs.training import commit
    spawn, workers = multiprocessing.get_context('spawn'), {}
    for name in args.only:
        here, there = spawn.Pipe()
        q = spawn.Process(target=work, args=(name, args.threads, args.batch, args.seconds, there), daemon=True); q.start(); there.close()
        workers[name] = here, q
    def ask(name, *what): workers[name][0].send(what); return workers[name][0].recv()
    rows, about = [], {}
    for size in args.sizes:
        for name in args.only: about[name] = ask(name, 'about', size)
        for i in range(args.rounds + 1): # the first one warms up
            for name in args.only:
                got = ask(name, args.what, size)
                if i and got is not None: rows.append(dict(size=size, what=args.what, round=i, name=name, rate=got))
            print(f'{args.what} {size}: round {i} of {args.rounds}', file=sys.stderr)
    profile = {size: ask('ours Lite0, OpenVINO', 'profile', size) for size in args.sizes} if 'ours Lite0, OpenVINO' in args.only else {}
    memory = {}
    for name, (pipe, q) in workers.items(): pipe.send(None); memory[name] = pipe.recv(); q.join()  # what follows has the machine alone
    table, pairs, top = [], [], {bits: peak(args.threads, bits) for bits in (32, 16, 8)}
    middle = lambda v: {k: round(float(f(v)), 3) for k, f in dict(ratio=np.median, lowest=min, highest=max).items()}
    for size in args.sizes:
        what = args.what
        mine = {name: {r['round']: r['rate'] for r in rows if (r['size'], r['what'], r['name']) == (size, what, name)} for name in args.only}
        for name, rates in mine.items():
            if not rates: continue
            work_, speed = about[name].get('gflop', {}).get(size), float(np.median(list(rates.values())))
            table.append(dict(name=name, what=what, size=size, tiles_per_second=round(speed, 2)) | middle([v / mine[BASE][k] for k, v in rates.items()])
                         | dict(parameters=about[name].get('parameters'), gflop=work_, share_of_peak=None if work_ is None else round(speed * work_ * (3 if what == 'train' else 1) / top[32], 3), peak_memory_mb=memory[name]))
        pairs += [dict(what=what, size=size, ours=a, other=b) | middle([v / mine[b][k] for k, v in mine[a].items()]) for w, a, b in PAIRS if w == what and mine.get(a) and mine.get(b)]
    import onnxruntime, torch
    from salt_tgs.engine import _openvino
    print(json.dumps(dict(rows=table, pairs=pairs, profile=profile, everyday=everyday(args.data or find_data(), args.rounds) if args.what == 'predict' else {}, base=BASE, batch=args.batch, threads=args.threads, rounds=args.rounds, peak=top, processor=processor(),
                          torch=torch.__version__, onnxruntime=onnxruntime.__version__, openvino=_openvino().__version__.split('-')[0], commit=commit()), indent=1))


if __name__ == '__main__': main()
