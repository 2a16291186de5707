import shutil
import zipfile

import pytest

from salt_tgs.data import make_default_data


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
