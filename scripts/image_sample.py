from guided_diffusion.commands.image_sample import main

if __name__ == "__main__":
    main()
