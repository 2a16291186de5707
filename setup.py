"Everything setuptools needs is in `settings.ini`; this file only hands it over."
from configparser import ConfigParser
from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['='])
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

setup(name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
      long_description=open('README.md', encoding='utf-8').read(), long_description_content_type='text/markdown',
      author=cfg['author'], url=cfg['git_url'], license='Apache-2.0', keywords=cfg['keywords'],
      classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research',
                   f"Natural Language :: {cfg['language']}", 'Programming Language :: Python :: 3'],
      python_requires=f">={cfg['min_python']}", packages=find_packages(include=['salt_tgs', 'salt_tgs.*']),
      include_package_data=True, install_requires=cfg['requirements'].split(),
      extras_require={'dev': ' '.join(cfg[f'{k}_requirements'] for k in ('dev', 'engine', 'onnx', 'segy', 'mdio', 'dask', 'gpus', 'review')).split(), 'kaggle': cfg['kaggle_requirements'].split(),
                      'engine': cfg['engine_requirements'].split(), 'onnx': (cfg['engine_requirements'] + ' ' + cfg['onnx_requirements']).split(),
                      'segy': cfg['segy_requirements'].split(), 'mdio': cfg['mdio_requirements'].split(), 'dask': cfg['dask_requirements'].split(), 'gpus': cfg['gpus_requirements'].split(),
                      'review': cfg['review_requirements'].split()},
      entry_points={'console_scripts': cfg['console_scripts'].split(),
                    'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
      zip_safe=False)
