"""Which folder each package is built from; everything else is in ``pyproject.toml``.

The rooms are top-level folders, imported as sub-packages of ``al_ray``. Their own sub-packages are
found, not listed.
"""

from setuptools import find_packages, setup

ROOMS = {
    "al_ray": "al_ray",
    "al_ray.actors": "actors",
    "al_ray.algorithms": "algorithms",
    "al_ray.envs": "envs",
}

# A set, because find_packages follows the links in al_ray/ and meets each room a second time.
packages = {f"{room}.{sub}" for room, folder in ROOMS.items() for sub in find_packages(folder)}

setup(package_dir=ROOMS, packages=sorted({*ROOMS, *packages}))
