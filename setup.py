"""Puts configs/ into the package as `ptft_jax/configs`.

pyproject.toml cannot say this together with a search for packages.
"""

from setuptools import find_namespace_packages, setup

packages = find_namespace_packages(include=["ptft_jax*"])
configs = [f"ptft_jax.{name}" for name in find_namespace_packages(include=["configs*"])]
setup(packages=packages + configs, package_dir={"ptft_jax.configs": "configs"})
