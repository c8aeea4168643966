from guided_diffusion.commands.image_nll import main

if __name__ == "__main__":
    main()
