from guided_diffusion.commands.imagenet_translation import main

if __name__ == "__main__":
    main()
