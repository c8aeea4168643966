from guided_diffusion.commands.synthetic_cycle import main

if __name__ == "__main__":
    main()
