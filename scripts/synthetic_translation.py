from guided_diffusion.commands.synthetic_translation import main

if __name__ == "__main__":
    main()
