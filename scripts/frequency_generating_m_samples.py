from guided_diffusion.commands.frequency_generating_m_samples import main

if __name__ == "__main__":
    main()
