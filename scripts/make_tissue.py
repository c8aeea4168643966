from guided_diffusion.commands.make_tissue import main

if __name__ == "__main__":
    main()
