from guided_diffusion.commands.super_res_train import main

if __name__ == "__main__":
    main()
