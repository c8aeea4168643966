from guided_diffusion.commands.severity_along_sequences import main

if __name__ == "__main__":
    main()
