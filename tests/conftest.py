import fcntl
import shutil
import zipfile

import pytest
from hypothesis import settings

from salt_tgs.data import make_default_data

settings.register_profile('explore', max_examples=5000, deadline=None)  # by hand: pytest -m hypothesis --hypothesis-profile=explore
if settings.get_current_profile_name() != 'ci': settings.register_profile('default', deadline=None); settings.load_profile('default')


def pytest_configure(config):
    config.addinivalue_line('markers', 'fault(name): shows what happens at this fault (tests/faults.py)')
    config.addinivalue_line('markers', 'alone: holds a time, so no other test runs beside it (pytest -n 2)')


@pytest.fixture(autouse=True)
def _beside(request, tmp_path_factory):
    "Readers and one writer over pytest's processes: a test marked `alone` waits for the others, and they for it."
    root = tmp_path_factory.getbasetemp()
    if hasattr(request.config, 'workerinput'): root = root.parent
    with open(root/'gate', 'w') as gate, open(root/'room', 'w') as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if request.node.get_closest_marker('alone') else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.fixture(scope='session')
def tiles(tmp_path_factory):
    "A small default data set, as Kaggle ships it."
    return make_default_data(tmp_path_factory.mktemp('data')/'tiles', n_train=48, n_test=6, seed=3)


@pytest.fixture
def broken(tiles, tmp_path):
    "A copy of the tiles, unpacked to `train/images` and so on, that a test may break."
    root = tmp_path/'tiles'
    root.mkdir()
    for f in tiles.glob('*.csv'): shutil.copy(f, root)
    for split in ('train', 'test'):
        with zipfile.ZipFile(tiles/f'{split}.zip') as z: z.extractall(root/split)
    return root
