from guided_diffusion.commands.ablate_attention import main

if __name__ == "__main__":
    main()
