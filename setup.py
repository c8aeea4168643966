from setuptools import find_packages, setup

# Code that was written for improved-diffusion finds it under its own name.
ALIAS = "improved_diffusion"

setup(
    name="guided-diffusion-add",
    version="0.1.0",
    description="Progressive pathology images from diffusion models",
    license="MIT",
    packages=[*find_packages(include=["guided_diffusion", "guided_diffusion.*"]), ALIAS],
    package_dir={ALIAS: "guided_diffusion/improved_diffusion/installed"},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4,<2.14",
        "numpy",
        "blobfile>=1.0.5",
        "mpi4py",
        "pillow",
        "tqdm",
    ],
    extras_require={
        "mpi": ["mpich"],
        "metrics": ["scipy", "torchmetrics"],
        "inception": ["scipy", "torch-fidelity"],
        "safetensors": ["safetensors"],
        "plots": ["matplotlib"],
        "test": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "mpich",
            "scipy",
            "diffusers",
            "safetensors",
            "matplotlib",
            "torchmetrics",
        ],
    },
)
