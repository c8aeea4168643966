from guided_diffusion.commands.convert_checkpoint import main

if __name__ == "__main__":
    main()
