"The command in a process of its own that has its imports behind it: they take longer than a small training, and a test of faults starts many."
import multiprocessing
import os
import signal

PROCESSES = multiprocessing.get_context('forkserver')  # one process imports, and each command is its copy
PROCESSES.set_forkserver_preload(['salt_tgs.cli', 'salt_tgs.submission', 'timm', 'matplotlib.figure', 'matplotlib.backends.backend_agg'])


def _child(args: list[str], err, prepare, values: tuple):
    from salt_tgs import cli
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1); os.dup2(err.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs do not hear Ctrl-C
    if prepare is not None: prepare(*values)
    raise SystemExit(cli.main(args))


class Forked:
    "`salt-tgs ARGS` from now on; `prepare` is called first, in that process."
    def __init__(self, args: list, prepare=None, *values):
        self.err, err = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=_child, args=([*map(str, args)], err, prepare, values))
        self.process.start(); err.close()
        self.pid = self.process.pid

    def running(self) -> bool: return self.process.is_alive()

    def signal(self, number: int): os.kill(self.pid, number)

    def wait(self, seconds: float=300) -> int: # exit code; minus the signal that killed it
        self.process.join(seconds)
        if self.running(): self.process.kill(); raise TimeoutError(f'still there after {seconds} s')
        return self.process.exitcode

    def stderr(self) -> str: # all of it, once the process has ended
        with open(os.dup(self.err.fileno())) as f: return f.read()


def workers(pid: int) -> list[int]: # their process ids
    "The workers that a process has started on this machine."
    children = [int(c) for t in os.listdir(f'/proc/{pid}/task') for c in open(f'/proc/{pid}/task/{t}/children').read().split()]
    return [c for c in children if b'spawn_main' in open(f'/proc/{c}/cmdline', 'rb').read()]


def run(args: list, prepare=None, *values, code: int=0) -> str: # what it wrote to stderr
    "The command from start to end."
    p = Forked(args, prepare, *values)
    done, err = p.wait(), p.stderr()
    assert done == code, err
    return err
