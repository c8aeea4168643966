from guided_diffusion.commands.synthetic_sample import main

if __name__ == "__main__":
    main()
