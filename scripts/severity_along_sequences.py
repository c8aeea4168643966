from guided_diffusion.commands.launcher import run

if __name__ == "__main__":
    run("severity_along_sequences")
