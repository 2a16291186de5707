"""Time this project's networks beside what people would otherwise take, and print JSON.

`python tools/bench.py [--rounds 5] [--sizes 128 256] [--batch 16] [--seconds 3] > nbs/results/speed.json` wants
`pip install segmentation-models-pytorch` and the extra `onnx`. Each contender lives in a process of its own; they take
turns, so that a disturbance hits all of them, and ratios are taken within a round. A step of training is forward,
cross entropy, backward and Adam; random weights, random tiles: speed does not depend on them.
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
    'ours ResNet34': (lambda: ours('resnet34', (128, 128, 128, 128)), True, 'torch'),
    'ours Lite0': (lambda: ours('tf_efficientnet_lite0', (96, 64, 48, 32), 'HypercolumnHead', 'ConvUnetBlock'), True, 'torch'),
    'SMP ResNet34, ONNX': (lambda: smp('resnet34'), False, 'onnx'),
    'SMP Lite0, ONNX': (lambda: smp('tu-tf_efficientnet_lite0'), False, 'onnx'),
    'ours ResNet34, ONNX': (lambda: ours('resnet34', (128, 128, 128, 128)), False, 'onnx'),
    'ours Lite0, ONNX': (lambda: ours('tf_efficientnet_lite0', (96, 64, 48, 32), 'HypercolumnHead', 'ConvUnetBlock'), False, 'onnx'),
    'shipped, 8 bits': (None, False, '8 bits')}


def rate(step, n: int, seconds: float) -> float: # tiles a second
    "The median of as many calls as fit into the time, three at least."
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter(); step(); times.append(time.perf_counter() - start)
    return n / float(np.median(times))

def session(path: Path, threads: int):
    import onnxruntime
    options = onnxruntime.SessionOptions(); options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

def work(name: str, threads: int, batch: int, seconds: float, pipe):
    "One contender: answers (what, size) by tiles a second."
    warnings.filterwarnings('ignore')
    os.dup2(2, 1)  # what exporters print is not the result
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    torch.set_num_threads(threads)
    build, last, engine = CONTENDERS[name]
    layout = torch.channels_last if last else torch.contiguous_format
    folder, graphs, about = Path(tempfile.mkdtemp()), {}, {}
    def graph(size):
        if size not in graphs:
            path = folder/f'{size}.onnx'
            if engine == '8 bits':
                from salt_tgs.engine import export_onnx
                from salt_tgs.ensemble import Ensemble
                net = Ensemble.load().members[0]; net.meta['size'] = size
                export_onnx(net, path, np.random.default_rng(0).integers(0, 256, (32, 101, 101), np.uint8), most=1)
            else: torch.onnx.export(model.eval(), (torch.zeros(2, 1, size, size),), path, dynamo=True, external_data=False, verbose=False, dynamic_shapes=({0: torch.export.Dim('n')},))
            graphs[size] = session(path, threads)
        return graphs[size]
    if build is not None:
        torch.manual_seed(0)
        model = build().to(memory_format=layout)
        about = dict(parameters=sum(p.numel() for p in model.parameters()), gflop={})
    while (ask := pipe.recv()) is not None:
        what, size = ask
        x = torch.rand(batch, 1, size, size).contiguous(memory_format=layout)
        if what == 'about' and build is not None:
            with FlopCounterMode(display=False) as count, torch.inference_mode(): model.eval()(x[:1])
            about['gflop'][size] = round(count.get_total_flops() / 1e9, 3)
            pipe.send(about)
        elif what == 'about': pipe.send(about)
        elif engine != 'torch':
            if what == 'train': pipe.send(None); continue
            run = graph(size); key, tiles = run.get_inputs()[0].name, x.numpy()
            run.run(None, {key: tiles}); pipe.send(rate(lambda: run.run(None, {key: tiles}), batch, seconds))
        elif what == 'predict':
            model.eval()
            with torch.inference_mode(): model(x); pipe.send(rate(lambda: model(x), batch, seconds))
        else:
            model.train(); y = (x > .5).float(); opt = torch.optim.AdamW(model.parameters(), 1e-4)
            def step():
                opt.zero_grad(); torch.nn.functional.binary_cross_entropy_with_logits(model(x), y).backward(); opt.step()
            step(); pipe.send(rate(step, batch, seconds))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

def peak(threads: int) -> float: # GFLOP/s in 32 bits
    "A large matrix product, the best of five."
    import torch
    torch.set_num_threads(threads)
    a, best = torch.rand(2048, 2048), 0.
    for _ in range(6):
        start = time.perf_counter(); a @ a; best = max(best, 2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return round(best, 1)

def processor() -> str:
    flags = set(Path('/proc/cpuinfo').read_text().split('flags')[1].split('\n')[0].split()) if Path('/proc/cpuinfo').exists() else set()
    return f"{platform.machine()}, " + ', '.join(f for f in ('avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16') if f in flags)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--rounds', type=int, default=5); p.add_argument('--sizes', type=int, nargs='+', default=[128, 256])
    p.add_argument('--batch', type=int, default=16); p.add_argument('--seconds', type=float, default=3.)
    p.add_argument('--only', nargs='+', choices=CONTENDERS, default=list(CONTENDERS)); p.add_argument('--threads', type=int, default=os.cpu_count())
    args = p.parse_args()
    if BASE not in args.only: args.only.insert(0, BASE)
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
        for what in ('predict', 'train'):
            for i in range(args.rounds + 1): # the first one warms up
                for name in args.only:
                    got = ask(name, what, size)
                    if i and got is not None: rows.append(dict(size=size, what=what, round=i, name=name, rate=got))
                print(f'{what} {size}: round {i} of {args.rounds}', file=sys.stderr)
    memory = {}
    for name, (pipe, q) in workers.items(): pipe.send(None); memory[name] = pipe.recv(); q.join()  # what follows has the machine alone
    table, top = [], peak(args.threads)
    for size in args.sizes:
        for what in ('predict', 'train'):
            mine = {name: {r['round']: r['rate'] for r in rows if (r['size'], r['what'], r['name']) == (size, what, name)} for name in args.only}
            for name, rates in mine.items():
                if not rates: continue
                ratios, work_ = [v / mine[BASE][k] for k, v in rates.items()], about[name].get('gflop', {}).get(size)
                speed = float(np.median(list(rates.values())))
                table.append(dict(name=name, what=what, size=size, tiles_per_second=round(speed, 2), ratio=round(float(np.median(ratios)), 3), lowest=round(min(ratios), 3), highest=round(max(ratios), 3),
                                  parameters=about[name].get('parameters'), gflop=work_, share_of_peak=None if work_ is None else round(speed * work_ * (3 if what == 'train' else 1) / top, 3), peak_memory_mb=memory[name]))
    import onnxruntime, torch
    print(json.dumps(dict(rows=table, base=BASE, batch=args.batch, threads=args.threads, rounds=args.rounds, peak_gflops=top, processor=processor(), torch=torch.__version__, onnxruntime=onnxruntime.__version__, commit=commit()), indent=1))


if __name__ == '__main__': main()
