"""What pyproject.toml cannot say: packages whose files lie elsewhere than their names."""

from setuptools import find_packages, setup

PLACES = {
    # Code that was written for improved-diffusion finds it under its own name.
    "improved_diffusion": "guided_diffusion/improved_diffusion/installed",
    # The demo's models and tiles, which the wheel brings along.
    "guided_diffusion.assets.demo": "assets/demo",
}

setup(
    packages=[*find_packages(include=["guided_diffusion", "guided_diffusion.*"]), *PLACES],
    package_dir=PLACES,
    include_package_data=False,
    package_data={
        "guided_diffusion": ["py.typed"],
        "guided_diffusion.assets.demo": ["*", "*/*", "*/*/*"],
    },
)
