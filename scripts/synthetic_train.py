from guided_diffusion.commands.synthetic_train import main

if __name__ == "__main__":
    main()
