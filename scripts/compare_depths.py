from guided_diffusion.commands.compare_depths import main

if __name__ == "__main__":
    main()
