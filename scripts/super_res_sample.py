from guided_diffusion.commands.super_res_sample import main

if __name__ == "__main__":
    main()
