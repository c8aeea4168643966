"""Keep upstream's import paths alive: `guided_diffusion.unet` is `guided_diffusion.networks.unet`.

A porch is a file under upstream's name. It imports the names of the real module, so that type
checkers and readers see them, and names that upstream's module happened to import. Then `hand_on`
puts the real module in its place: programs that read, replace or pickle something under upstream's
name work with the real module.
"""
# ruff: noqa: E501  (a line for each module)

import sys
from types import ModuleType

# Names that `import *` brings: all upstreams' and no other, which could hide a user's own.
STARS = {
    "color_datasets": "ColorDataset DataLoader Dataset Image bf color load_color_data_for_training load_color_data_for_translation np rgb_sample_to_image sample_to_image",
    "dist_util": "GPUS_PER_NODE MPI SETUP_RETRY_COUNT bf dev dist io load_state_dict os setup_dist socket sync_params th",
    "fourier_trans": "cv2 get_adaptive_list image_fourier_trans np torch warnings",
    "fp16_util": "INITIAL_LOG_LOSS_SCALE MixedPrecisionTrainer check_overflow convert_module_to_f16 convert_module_to_f32 get_param_groups_and_shapes logger make_master_params master_params_to_model_params master_params_to_state_dict model_grads_to_master_grads nn np param_grad_or_zeros state_dict_to_master_params th unflatten_master_params zero_grad zero_master_grads",
    "gaussian_diffusion": "GaussianDiffusion LossType ModelMeanType ModelVarType betas_for_alpha_bar discretized_gaussian_log_likelihood enum get_named_beta_schedule image_fourier_trans math mean_flat normal_kl np th",
    "image_datasets": "DataLoader Dataset Image ImageDataset MPI bf center_crop_arr get_image_filenames_for_label list_image_files load_data load_source_data_for_domain_translation math np os random random_crop_arr",
    "logger": "CSVOutputFormat DEBUG DISABLED ERROR HumanOutputFormat INFO JSONOutputFormat KVWriter Logger SeqWriter TensorBoardOutputFormat WARN configure contextmanager datetime debug defaultdict dump_tabular dumpkvs error get_current get_dir get_rank_without_mpi_import getkvs info json log logkv logkv_mean logkvs make_output_format mpi_weighted_mean os osp profile profile_kv record_tabular reset scoped_configure set_comm set_level shutil sys tempfile time warn warnings",
    "losses": "approx_standard_normal_cdf discretized_gaussian_log_likelihood normal_kl np th",
    "nn": "CheckpointFunction GroupNorm32 SiLU avg_pool_nd checkpoint conv_nd linear math mean_flat nn normalization scale_module th timestep_embedding update_ema zero_module",
    "resample": "ABC LossAwareSampler LossSecondMomentResampler ScheduleSampler UniformSampler abstractmethod create_named_schedule_sampler dist np th",
    "respace": "GaussianDiffusion SpacedDiffusion np space_timesteps th",
    "script_util": "EncoderUNetModel NUM_CLASSES SpacedDiffusion SuperResModel SyntheticModel UNetModel add_dict_to_argparser argparse args_to_dict classifier_and_diffusion_defaults classifier_defaults create_classifier create_classifier_and_diffusion create_gaussian_diffusion create_model create_model_and_diffusion create_model_and_diffusion_2d diffusion_defaults gd inspect model_and_diffusion_defaults model_and_diffusion_defaults_2d space_timesteps sr_create_model sr_create_model_and_diffusion sr_model_and_diffusion_defaults str2bool",
    "synthetic": "ResBlock SyntheticModel TimestepBlock TimestepEmbedSequential abstractmethod checkpoint convert_module_to_f16 convert_module_to_f32 linear nn normalization th timestep_embedding zero_module",
    "synthetic_datasets": "BaseSampler ConcentricRingSampler ConcentricSquareSampler DataLoader Dataset OlympicRingSampler OlympicSquareSampler RingSampler SquareSampler Synthetic2DDataset Synthetic2DType enum heatmap load_2d_data make_checkerboard make_moons normalize np plt save_plots scatter",
    "train_util": "AdamW DDP INITIAL_LOG_LOSS_SCALE LossAwareSampler MixedPrecisionTrainer TrainLoop UniformSampler bf copy dist dist_util find_ema_checkpoint find_resume_checkpoint functools get_blob_logdir log_loss_dict logger os parse_resume_step_from_filename th update_ema",
    "unet": "AttentionBlock AttentionPool2d Downsample EncoderUNetModel F QKVAttention QKVAttentionLegacy ResBlock SuperResModel TimestepBlock TimestepEmbedSequential UNetModel Upsample abstractmethod avg_pool_nd checkpoint conv_nd convert_module_to_f16 convert_module_to_f32 count_flops_attn linear math nn normalization np th timestep_embedding zero_module",
    "improved_diffusion.fp16_util": "convert_module_to_f16 convert_module_to_f32 make_master_params master_params_to_model_params model_grads_to_master_grads nn unflatten_master_params zero_grad",
    "improved_diffusion.image_datasets": "DataLoader Dataset Image ImageDataset MPI bf load_data np",
    "improved_diffusion.script_util": "NUM_CLASSES SpacedDiffusion SuperResModel UNetModel add_dict_to_argparser argparse args_to_dict create_gaussian_diffusion create_model create_model_and_diffusion gd inspect model_and_diffusion_defaults space_timesteps sr_create_model sr_create_model_and_diffusion sr_model_and_diffusion_defaults str2bool",
    "improved_diffusion.train_util": "AdamW DDP INITIAL_LOG_LOSS_SCALE LossAwareSampler TrainLoop UniformSampler bf copy dist dist_util find_ema_checkpoint find_resume_checkpoint functools get_blob_logdir log_loss_dict logger make_master_params master_params_to_model_params model_grads_to_master_grads np os parse_resume_step_from_filename th unflatten_master_params update_ema zero_grad",
    "improved_diffusion.unet": "AttentionBlock Downsample F QKVAttention ResBlock SiLU SuperResModel TimestepBlock TimestepEmbedSequential UNetModel Upsample abstractmethod avg_pool_nd checkpoint conv_nd convert_module_to_f16 convert_module_to_f32 linear math nn normalization np th timestep_embedding zero_module",
}


def hand_on(name: str, module: ModuleType) -> None:
    """Put the real module in the place of a porch (its `__name__`), and add the porch's names."""
    for key, value in vars(sys.modules[name]).items():
        if key not in ("module", "hand_on"):
            vars(module).setdefault(key, value)
    vars(module)["__all__"] = star_of(name)
    sys.modules[name] = module


def star_of(name: str) -> list[str]:
    """Return the names that `import *` brings from a module."""
    return STARS[name.removeprefix(f"{__package__}.")].split()
