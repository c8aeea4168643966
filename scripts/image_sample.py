from guided_diffusion.commands.launcher import run

if __name__ == "__main__":
    run("image_sample")
